#pragma once

#include <cmath>

#include "kernels/device.cuh"

// Pieces of Cholesky factors in shared memory.

namespace flrc::gpu {

inline constexpr int kCholeskyPanel = 32;
inline constexpr int kCholeskyLd = kCholeskyPanel + 1;

// The factor of a square of kCholeskyPanel, of which only the lower triangle is of use, in its place, and the
// inverses of its diagonal; by one warp. Pivots below `least` are raised to it.
FLRC_DEVICE void factorSquare(Shared<double> square, Shared<double> inverse, double least) {
  // A lane has a row.
  const int lane = laneIndex();
  double value[kCholeskyPanel];
  FLRC_UNROLL
  for (int j = 0; j < kCholeskyPanel; ++j) value[j] = square[lane * kCholeskyLd + j];
  FLRC_UNROLL
  for (int j = 0; j < kCholeskyPanel; ++j) {
    const double found = shuffle(value[j], j), pivot = found > least ? found : least, over = inverseRoot(pivot);
    value[j] = lane > j ? value[j] * over : lane == j ? pivot * over : 0.0;
    if (lane == j) inverse[j] = over;
    FLRC_UNROLL
    for (int k = j + 1; k < kCholeskyPanel; ++k)
      value[k] = fusedMultiplyAdd(-value[j], shuffle(value[j], k), value[k]);
  }
  FLRC_UNROLL
  for (int j = 0; j < kCholeskyPanel; ++j) square[lane * kCholeskyLd + j] = value[j];
}

// row = row L^-T for the factor L of a square, in place; by one thread.
FLRC_DEVICE void solveRow(Shared<double> row, Shared<const double> square, Shared<const double> inverse) {
  double value[kCholeskyPanel];
  FLRC_UNROLL
  for (int j = 0; j < kCholeskyPanel; ++j) {
    double rest = row[j];
    FLRC_UNROLL
    for (int k = 0; k < j; ++k) rest = fusedMultiplyAdd(-square[j * kCholeskyLd + k], value[k], rest);
    value[j] = rest * inverse[j];
  }
  FLRC_UNROLL
  for (int j = 0; j < kCholeskyPanel; ++j) row[j] = value[j];
}

}  // namespace flrc::gpu
