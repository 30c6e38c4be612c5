#include <cmath>

#include "kernels/batches.cuh"
#include "kernels/pivots.h"

namespace flrc::gpu {
namespace {

using namespace batches;

// Brings a row to unit length, and makes r's zeros. A block has a row.
FLRC_KERNEL void unitRowsKernel(FLRC_PARAMS(PivotedQrParams) p) {
  const int64_t row = static_cast<int64_t>(blockZ()) * p.rows + blockX();
  const Global<double> u = p.u + row * p.width, r = p.r + row * p.width;
  const double squares = squaresOf(u, p.width, sharedMemory<double>(0)),
               inverse = squares > 0 ? 1 / sqrt(squares) : 0.0;
  for (int j = threadIndex(); j < p.width; j += kThreads) {
    u[j] = u[j] * inverse;
    r[j] = 0;
  }
  if (blockX() == 0 && threadIndex() == 0) p.rank[blockZ()] = 0;
}

struct StepParams {
  PivotedQrParams all;
  int step;  // pivots found before
};

// The next pivot, and its column made a vector of the basis.
FLRC_KERNEL void chooseKernel(FLRC_PARAMS(StepParams) params) {
  const PivotedQrParams& p = params.all;
  const int64_t matrix = blockZ(), rows = p.rows, width = p.width;
  const int found = params.step;
  if (p.rank[matrix] != found) return;
  const Shared<double> scratch = sharedMemory<double>(0), column = scratch + kWarps;  // [rows]
  const Shared<double> best = column + p.rows, dots = best + kWarps;                  // [kWarps], [rows]
  const Shared<int32_t> bestAt = pointerCast<int32_t>(dots + p.rows);                 // [kWarps]
  const Global<const double> u = p.u + matrix * rows * width;
  const Global<double> r = p.r + matrix * rows * width, basis = p.basis + matrix * rows * rows,
                       norms = p.norms + matrix * width;

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
  const auto take = [&](double other, int otherAt) {
    if (other > most || (other == most && otherAt < at)) {
      most = other;
      at = otherAt;
    }
  };
  FLRC_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    const double other = shuffleXor(most, mask);
    take(other, shuffleXor(at, mask));
  }
  if (laneIndex() == 0) {
    best[warpIndex()] = most;
    bestAt[warpIndex()] = at;
  }
  syncBlock();
  for (int w = 0; w < kWarps; ++w) take(best[w], bestAt[w]);
  const double first = found > 0 ? static_cast<double>(r[p.order[matrix * rows]]) : sqrt(most),
               negligible = first * static_cast<double>(width) * 0x1.0p-52;
  if (!(most > negligible * negligible)) return;

  // What is left of that column, once more made orthogonal to the basis: rounding has had many steps.
  for (int i = threadIndex(); i < p.rows; i += kThreads) column[i] = u[i * width + at];
  if (found > 0) {
    syncBlock();
    for (int j = warpIndex(); j < found; j += kWarps) {
      double dot = 0;
      for (int i = laneIndex(); i < p.rows; i += 32)
        dot = fusedMultiplyAdd(basis[j * rows + i], column[i], dot);
      dot = warpSum(dot);
      if (laneIndex() == 0) {
        r[j * width + at] += dot;
        dots[j] = dot;
      }
    }
    syncBlock();
  }
  double squares = 0;
  for (int i = threadIndex(); i < p.rows; i += kThreads) {
    double value = column[i];
    for (int j = 0; j < found; ++j) value = fusedMultiplyAdd(-dots[j], basis[j * rows + i], value);
    column[i] = value;
    squares = fusedMultiplyAdd(value, value, squares);
  }
  const double length = sqrt(blockSum(squares, scratch));
  for (int i = threadIndex(); i < p.rows; i += kThreads) basis[found * rows + i] = column[i] / length;
  if (threadIndex() > 0) return;
  r[found * width + at] = length;
  norms[at] = -1;
  p.order[matrix * rows + found] = at;
  p.rank[matrix] = found + 1;
}

// Columns to a block: one a lane, whose rows its warps share.
constexpr int kColumns = 32;

// Takes from every column left what it has along the basis' last vector, and measures the rest. Before the
// first step it only measures.
FLRC_KERNEL void deflateKernel(FLRC_PARAMS(StepParams) params) {
  const PivotedQrParams& p = params.all;
  const int64_t matrix = blockZ(), rows = p.rows, width = p.width;
  const int found = params.step;
  if (p.rank[matrix] != found + 1) return;
  const Shared<double> dots = sharedMemory<double>(0),
                       lefts = dots + kWarps * kColumns;  // [kWarps][kColumns] each
  const int j = blockX() * kColumns + laneIndex();
  const Global<double> norms = p.norms + matrix * width;
  const bool inside = j < p.width && (found < 0 || norms[j] >= 0);
  const Global<double> u = p.u + matrix * rows * width + (inside ? j : 0);
  const Global<const double> vector = p.basis + (matrix * rows + (found < 0 ? 0 : found)) * rows;
  const auto sumOf = [&](Shared<double> parts, double own) {
    parts[warpIndex() * kColumns + laneIndex()] = own;
    syncBlock();
    double sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += parts[w * kColumns + laneIndex()];
    return sum;
  };
  double dot = 0;
  if (found >= 0) {
    for (int i = warpIndex(); inside && i < p.rows; i += kWarps)
      dot = fusedMultiplyAdd(vector[i], u[i * width], dot);
    dot = sumOf(dots, dot);
  }
  double left = 0;
  for (int i = warpIndex(); inside && i < p.rows; i += kWarps) {
    double value = u[i * width];
    if (found >= 0) {
      value = fusedMultiplyAdd(-dot, vector[i], value);
      u[i * width] = value;
    }
    left = fusedMultiplyAdd(value, value, left);
  }
  left = sumOf(lefts, left);
  if (!inside || warpIndex() > 0) return;
  if (found >= 0) p.r[(matrix * rows + found) * width + j] = dot;
  norms[j] = left;
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

FLRC_KERNEL void columnsKernel(FLRC_PARAMS(ColumnsParams) p) {
  const int64_t i = static_cast<int64_t>(blockX()) * kThreads + threadIndex(), count = p.count;
  if (i < count * p.width) p.out[i] = p.r[i % count * p.width + p.column[i / count]];
}

}  // namespace

size_t pivotSharedBytes(int rows) {
  return 2 * (kWarps + static_cast<size_t>(rows)) * sizeof(double) + kWarps * sizeof(int32_t);
}

void launchPivotedQr(Stream stream, const PivotedQrParams& params, int batch, const Pace& pace) {
  launch(stream, shapeOf(params.rows, 1, batch, kWarps * sizeof(double)), unitRowsKernel, params);
  const auto deflate = [&](int step) {
    launch(stream,
           shapeOf((params.width + kColumns - 1) / kColumns, 1, batch,
                   size_t{2} * kWarps * kColumns * sizeof(double)),
           deflateKernel, StepParams{params, step});
  };
  deflate(-1);
  LaunchShape choice = shapeOf(1, 1, batch, pivotSharedBytes(params.rows));
  choice.fitted = true;
  for (int step = 0; step < params.rows; ++step) {
    launch(stream, choice, chooseKernel, StepParams{params, step});
    deflate(step);
    // A pivot is chosen by one block of threads alone.
    constexpr double kAlone = 64;
    pace(batch * (4.0 * params.rows * params.width + kAlone * 4.0 * step * params.rows));
  }
}

void launchCoefficients(Stream stream, const CoefficientParams& params, int batch) {
  launch(stream, shapeOf((params.width + kThreads - 1) / kThreads, 1, batch), coefficientsKernel, params);
}

void launchColumns(Stream stream, const ColumnsParams& params) {
  const int64_t values = int64_t{params.count} * params.width;
  launch(stream, shapeOf((values + kThreads - 1) / kThreads, 1, 1), columnsKernel, params);
}

}  // namespace flrc::gpu
