#pragma once

// Orthonormal bases and Cholesky factors, batched over matrices of equal shape: each matrix of a batch lies
// behind the one before. All in fp64, row-major.

#include "kernels/device.cuh"
#include "kernels/pace.h"

namespace flrc::gpu {

// Working memory of both: [batch][3][n] doubles.
enum RowLength : int { kScale, kLength, kLeft, kRowLengths };

// Pivots of unit rows that are no larger are rounding, of which a dependent row leaves as much.
inline double leastPivot(int n) { return 16 * static_cast<double>(n) * 0x1.0p-53; }

// The Cholesky factor of a positive semidefinite matrix whose rows and columns are brought to unit diagonal:
// diag(scale) a diag(scale) = L L^T. A pivot below leastPivot is raised to that, so that every such matrix has
// a factor.
struct CholeskyParams {
  Global<const double> a;  // [batch][n][n], the lower triangle
  Global<double> lower;    // [batch][n][n]: L^T, its upper triangle
  Global<double> lengths;  // kScale: 1 / sqrt(a_ii), or 0; kLength: sqrt(a_ii); kLeft: L_ii kLength
  int n;
};
void launchCholesky(Stream stream, const CholeskyParams& params, int batch, const Pace& pace = kNoPace);

// q = L^-1 diag(kScale) q for such a factor, in place; q [batch][rows][width].
struct SubstituteParams {
  Global<double> q;
  int rows, width;
  Global<const double> lower, lengths;
  int first = 0, end = 0;  // rows, in the launch
};
void launchSubstitute(Stream stream, const SubstituteParams& params, int batch, const Pace& pace = kNoPace);

// Replaces the rows of q [batch][rows][width], rows <= width, by an orthonormal basis of what they span:
// Cholesky QR with unit rows, done over again (Fukaya et al. 2020). A row that depends on those before it
// becomes zeros.
struct OrthonormaliseParams {
  Global<double> q;
  int rows, width;
  Global<double> gram, lower;  // working memory: [batch][rows][rows] each
  Global<double> lengths;
};
// Three rounds make it orthonormal to rounding. One is enough between power iterations: of the rows that it
// leaves dependent, each has lost what those before it have of the matrix's largest eigenvectors.
void launchOrthonormalise(Stream stream, const OrthonormaliseParams& params, int batch, int rounds = 3,
                          const Pace& pace = kNoPace);

}  // namespace flrc::gpu
