#pragma once

// Eigenvectors of symmetric matrices, batched over matrices of equal shape: each matrix of a batch lies behind
// the one before. All in fp64, row-major (linalg/factors.cc and linalg/symmetric.cc have the CPU's).

#include "kernels/device.cuh"

namespace flrc::gpu {

// Standard normal values, those of linalg/factors.cc for the same seed. out [batch][count].
struct GaussianParams {
  Global<double> out;
  int64_t count;
  Global<const uint64_t> seeds;  // [batch]
};
void launchGaussian(Stream stream, const GaussianParams& params, int batch);

// c [batch][m][n] = a [batch][m][k] b, b [batch][k][n] or, transposed, [batch][n][k].
struct ProductParams {
  Global<const double> a, b;
  Global<double> c;
  int m, n, k;
  bool transposed;
};
void launchProduct(Stream stream, const ProductParams& params, int batch);

// Replaces the rows of q [batch][rows][width], rows <= width, by an orthonormal basis of what they span:
// Gram-Schmidt in blocks, each projection done twice (Giraud, Langou and Rozloznik 2005). A row that depends on
// those before it becomes zeros.
struct OrthonormaliseParams {
  Global<double> q;
  int rows, width;
};
void launchOrthonormalise(Stream stream, const OrthonormaliseParams& params, int batch);

// Eigenvalues in falling order, and eigenvectors as rows, of symmetric matrices: cyclic Jacobi with disjoint
// rotations at once (Brent and Luk 1985). a [batch][n][n] and work [batch][n][n] are destroyed.
struct JacobiParams {
  Global<double> a, work;
  Global<double> values, vectors;  // [batch][n], [batch][n][n]
  int n;
};
void launchJacobi(Stream stream, const JacobiParams& params, int batch);

// The largest `sketch` eigenpairs of symmetric matrices by a Gaussian sketch, power iterations with
// re-orthogonalisation and Rayleigh-Ritz (linalg/factors.cc sketchedEigen; Halko, Martinsson and Tropp 2011).
// The last of them, the oversampling, are not to be relied on.
struct SketchedEigenParams {
  Global<const double> matrix;  // [batch][n][n]
  int n, sketch, powerIterations;
  Global<const uint64_t> seeds;
  Global<double> q, image;            // working memory: [batch][sketch][n] each
  Global<double> small, work, basis;  // working memory: [batch][sketch][sketch] each
  Global<double> values, vectors;     // [batch][sketch], [batch][sketch][n]
};
void launchSketchedEigen(Stream stream, const SketchedEigenParams& params, int batch);

}  // namespace flrc::gpu
