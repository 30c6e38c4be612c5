#pragma once

// Eigenvectors of positive semidefinite matrices, batched over matrices of equal shape: each matrix of a batch
// lies behind the one before. All in fp64, row-major (linalg/factors.cc and linalg/symmetric.cc have the
// CPU's).

#include "kernels/bases.h"

namespace flrc::gpu {

// Standard normal values, those of linalg/factors.cc for the same seed. out [batch][count].
struct GaussianParams {
  Global<double> out;
  int64_t count;
  Global<const uint64_t> seeds;  // [batch]
};
void launchGaussian(Stream stream, const GaussianParams& params, int batch);

// Adds a share of its trace to a matrix' diagonal, and says how much that was. Eigenvectors stay what they are,
// and a positive semidefinite matrix some of whose eigenvalues rounding has brought below zero, as sums in f32
// have, gets a Cholesky factor. Eigenvalues are found to fp64's rounding of the largest, as without.
inline constexpr double kEigenShift = 0x1p-12;
struct ShiftParams {
  Global<double> matrix;  // [batch][n][n]
  int n;
  Global<double> shift;  // [batch]
};
void launchShift(Stream stream, const ShiftParams& params, int batch);

// Eigenvalues in falling order, and eigenvectors as rows, of positive semidefinite matrices: Jacobi rotations
// of the rows of the Cholesky factor's transpose (Veselic and Hari 1989), which end as eigenvectors, as long as
// the roots of their eigenvalues; disjoint pairs at once (Brent and Luk 1985).
inline constexpr int kEigenSweeps = 30;  // at most
struct EigenParams {
  Global<const double> a;  // [batch][n][n], the lower triangle
  int n;
  Global<const double> shift;      // [batch], what values are to be without (launchShift); or null
  Global<double> rows;             // working memory: [batch][n][n]
  Global<double> lengths;          // working memory: [batch][kRowLengths][n] (bases.h)
  Global<uint32_t> busy;           // working memory: [batch][kEigenSweeps]
  Global<double> values, vectors;  // [batch][n], [batch][n][n]
};
void launchEigen(Stream stream, const EigenParams& params, int batch, const Pace& pace = kNoPace);

// The largest `sketch` eigenpairs of positive semidefinite matrices by a Gaussian sketch, power iterations with
// re-orthogonalisation and Rayleigh-Ritz (linalg/factors.cc sketchedEigen; Halko, Martinsson and Tropp 2011).
// The last of them, the oversampling, are not to be relied on.
struct SketchedEigenParams {
  Global<const double> matrix;  // [batch][n][n]
  int n, sketch, powerIterations;
  Global<const uint64_t> seeds;
  Global<double> q, image;            // working memory: [batch][sketch][n] each
  Global<double> small, rows, basis;  // working memory: [batch][sketch][sketch] each
  Global<double> lengths;             // working memory: [batch][kRowLengths][sketch]
  Global<uint32_t> busy;              // working memory: [batch][kEigenSweeps]
  Global<double> shift;               // working memory: [batch]
  Global<double> values, vectors;     // [batch][sketch], [batch][sketch][n]
};
void launchSketchedEigen(Stream stream, const SketchedEigenParams& params, int batch,
                         const Pace& pace = kNoPace);

}  // namespace flrc::gpu
