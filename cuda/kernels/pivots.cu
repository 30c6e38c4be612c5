#include <cmath>

#include "kernels/batches.cuh"
#include "kernels/pivots.h"

namespace flrc::gpu {
namespace {

using namespace batches;

FLRC_KERNEL void pivotedQrKernel(FLRC_PARAMS(PivotedQrParams) p) {
  const Shared<double> scratch = sharedMemory<double>(0), column = scratch + 2 * kWarps;  // [rows]
  const Shared<double> best = column + p.rows;                                            // [kWarps] and [1]
  const Shared<int32_t> bestAt = pointerCast<int32_t>(best + kWarps + 1);                 // [kWarps] and [1]
  const int64_t matrix = blockZ(), rows = p.rows, width = p.width;
  const Global<double> u = p.u + matrix * rows * width, r = p.r + matrix * rows * width;
  const Global<double> basis = p.basis + matrix * rows * rows, norms = p.norms + matrix * width;

  for (int i = 0; i < p.rows; ++i) {
    const double squares = squaresOf(u + i * width, p.width, scratch + i % 2 * kWarps),
                 inverse = squares > 0 ? 1 / sqrt(squares) : 0.0;
    for (int j = threadIndex(); j < p.width; j += kThreads) u[i * width + j] = u[i * width + j] * inverse;
  }
  for (int j = threadIndex(); j < p.width; j += kThreads) {
    double squares = 0;
    for (int i = 0; i < p.rows; ++i) {
      squares = fusedMultiplyAdd(u[i * width + j], u[i * width + j], squares);
      r[i * width + j] = 0;
    }
    norms[j] = squares;
  }

  int found = 0;
  double negligible = 0;
  for (; found < p.rows; ++found) {
    // The longest column left, of equals the first.
    double most = -1;
    int at = 0;
    for (int j = threadIndex(); j < p.width; j += kThreads) {
      const double norm = norms[j];
      if (norm > most) {
        most = norm;
        at = j;
      }
    }
    FLRC_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) {
      const double other = shuffleXor(most, mask);
      const int otherAt = shuffleXor(at, mask);
      if (other > most || (other == most && otherAt < at)) {
        most = other;
        at = otherAt;
      }
    }
    if (laneIndex() == 0) {
      best[warpIndex()] = most;
      bestAt[warpIndex()] = at;
    }
    syncBlock();
    most = best[0];
    at = bestAt[0];
    for (int w = 1; w < kWarps; ++w) {
      const double other = best[w];
      const int otherAt = bestAt[w];
      if (other > most || (other == most && otherAt < at)) {
        most = other;
        at = otherAt;
      }
    }
    if (found == 0) negligible = sqrt(most) * static_cast<double>(width) * 0x1.0p-52;
    if (!(most > negligible * negligible)) break;

    // What is left of that column, once more made orthogonal to the basis: rounding has had many steps.
    for (int i = threadIndex(); i < p.rows; i += kThreads) column[i] = u[i * width + at];
    if (found > 0) syncBlock();
    for (int j = warpIndex(); j < found; j += kWarps) {
      double dot = 0;
      for (int i = laneIndex(); i < p.rows; i += 32)
        dot = fusedMultiplyAdd(basis[j * rows + i], column[i], dot);
      dot = warpSum(dot);
      if (laneIndex() == 0) r[j * width + at] += dot;
      // Taken off below, when all have read the column.
      if (laneIndex() == 0) basis[found * rows + j] = dot;
    }
    if (found > 0) syncBlock();
    double squares = 0;
    for (int i = threadIndex(); i < p.rows; i += kThreads) {
      double value = column[i];
      for (int j = 0; j < found; ++j)
        value = fusedMultiplyAdd(-basis[found * rows + j], basis[j * rows + i], value);
      column[i] = value;
      squares = fusedMultiplyAdd(value, value, squares);
    }
    const double length = sqrt(blockSum(squares, scratch));
    for (int i = threadIndex(); i < p.rows; i += kThreads) {
      const double value = column[i] / length;
      column[i] = value;
      basis[found * rows + i] = value;
    }
    if (threadIndex() == 0) p.order[matrix * rows + found] = at;
    syncBlock();
    for (int j = threadIndex(); j < p.width; j += kThreads) {
      if (norms[j] < 0) continue;
      if (j == at) {
        r[found * width + j] = length;
        norms[j] = -1;
        continue;
      }
      double dot = 0, left = 0;
      for (int i = 0; i < p.rows; ++i) dot = fusedMultiplyAdd(column[i], u[i * width + j], dot);
      for (int i = 0; i < p.rows; ++i) {
        const double value = fusedMultiplyAdd(-dot, column[i], u[i * width + j]);
        u[i * width + j] = value;
        left = fusedMultiplyAdd(value, value, left);
      }
      r[found * width + j] = dot;
      norms[j] = left;
    }
  }
  if (threadIndex() == 0) p.rank[matrix] = found;
}

FLRC_KERNEL void coefficientsKernel(FLRC_PARAMS(CoefficientParams) p) {
  const int64_t matrix = blockZ(), rows = p.rows, width = p.width;
  const int j = blockX() * kThreads + threadIndex();
  if (j >= p.width) return;
  const Global<const double> r = p.r + matrix * rows * width;
  const Global<double> z = p.z + matrix * rows * width;
  const int rank = p.rank[matrix];
  for (int i = p.rows - 1; i >= rank; --i) z[i * width + j] = 0;
  for (int i = rank - 1; i >= 0; --i) {
    double value = r[i * width + j];
    for (int l = i + 1; l < rank; ++l) {
      value = fusedMultiplyAdd(-r[i * width + p.order[matrix * rows + l]], z[l * width + j], value);
    }
    z[i * width + j] = value / r[i * width + p.order[matrix * rows + i]];
  }
}

}  // namespace

void launchPivotedQr(Stream stream, const PivotedQrParams& params, int batch) {
  const size_t doubles = 3 * kWarps + 1 + static_cast<size_t>(params.rows);
  launch(stream, shapeOf(1, 1, batch, doubles * sizeof(double) + (kWarps + 1) * sizeof(int32_t)),
         pivotedQrKernel, params);
}

void launchCoefficients(Stream stream, const CoefficientParams& params, int batch) {
  launch(stream, shapeOf((params.width + kThreads - 1) / kThreads, 1, batch), coefficientsKernel, params);
}

}  // namespace flrc::gpu
