#include <algorithm>
#include <cmath>

#include "kernels/bases.h"
#include "kernels/batches.cuh"
#include "kernels/cholesky.cuh"
#include "kernels/products.h"

namespace flrc::gpu {
namespace {

using batches::shapeOf;

constexpr int kThreads = batches::kThreads;
// Columns of L made by one launch, and the rows behind them that a block makes.
constexpr int kPanel = kCholeskyPanel;
constexpr int kRows = 64;
// Of a row's length, what rounding leaves of one that depends on others.
constexpr double kDependent = 1e-13;

struct ScaleParams {
  Global<const double> a;
  Global<double> lengths;
  int n;
  bool first;
};

FLRC_KERNEL void scaleKernel(FLRC_PARAMS(ScaleParams) p) {
  const int64_t matrix = blockZ(), n = p.n;
  const int i = blockX() * kThreads + threadIndex();
  if (i >= p.n) return;
  const Global<double> lengths = p.lengths + matrix * kRowLengths * n;
  const double square = p.a[(matrix * n + i) * n + i], length = square > 0 ? sqrt(square) : 0.0;
  const double whole = p.first ? length : static_cast<double>(lengths[kLength * n + i]);
  const double left = p.first ? length : lengths[kLeft * n + i] * length;
  lengths[kLength * n + i] = whole;
  lengths[kLeft * n + i] = left;
  lengths[kScale * n + i] = left > kDependent * whole ? 1 / length : 0.0;
}

struct PanelParams {
  CholeskyParams all;
  int first;  // column
  double least;
};

// Columns [first, first + kPanel) of L, a block kRows of their rows; all blocks make the square on the
// diagonal.
FLRC_KERNEL void panelKernel(FLRC_PARAMS(PanelParams) p) {
  constexpr int kLd = kCholeskyLd;
  const Shared<double> square = sharedMemory<double>(0), inverse = square + kPanel * kLd,  // [kPanel]
      rows = inverse + kPanel,                                                             // [kRows][kLd]
      before = rows + kRows * kLd;  // [kPanel][kPanel + kRows]: what columns before the panel have there
  const int64_t n = p.all.n, matrix = blockZ();
  const Global<const double> a = p.all.a + matrix * n * n, scale = p.all.lengths + matrix * kRowLengths * n;
  const Global<double> lower = p.all.lower + matrix * n * n,
                       left = p.all.lengths + (matrix * kRowLengths + kLeft) * n;
  const int first = p.first, own = first + kPanel + blockX() * kRows;
  // Line i of the panel's rows and of the block's own.
  const auto rowOf = [&](int i) { return i < kPanel ? first + i : own + i - kPanel; };

  const int line = threadIndex() / 8, column = threadIndex() % 8 * 4;
  double sum[3][4] = {};
  for (int from = 0; from < first; from += kPanel) {
    if (from > 0) syncBlock();
    for (int i = threadIndex(); i < kPanel * (kPanel + kRows); i += kThreads) {
      const int at = i / (kPanel + kRows), row = rowOf(i % (kPanel + kRows));
      before[i] = row < n ? lower[(from + at) * n + row] : 0.0;
    }
    syncBlock();
    for (int at = 0; at < kPanel; ++at) {
      const Shared<const double> values = before + at * (kPanel + kRows);
      double y[4];
      FLRC_UNROLL
      for (int j = 0; j < 4; ++j) y[j] = values[column + j];
      FLRC_UNROLL
      for (int i = 0; i < 3; ++i) {
        const double x = values[line + 32 * i];
        FLRC_UNROLL
        for (int j = 0; j < 4; ++j) sum[i][j] = fusedMultiplyAdd(x, y[j], sum[i][j]);
      }
    }
  }
  FLRC_UNROLL
  for (int i = 0; i < 3; ++i) {
    FLRC_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int row = rowOf(line + 32 * i), to = first + column + j;
      // What lies outside is a row of the identity.
      double value = row == to ? 1.0 : 0.0;
      if (row < n && to < row) value = a[row * n + to] * scale[row] * scale[to];
      value -= sum[i][j];
      if (i == 0) {
        square[line * kLd + column + j] = value;
      } else {
        rows[(line + 32 * (i - 1)) * kLd + column + j] = value;
      }
    }
  }
  syncBlock();

  if (warpIndex() == 0) factorSquare(square, inverse, p.least);
  syncBlock();
  if (threadIndex() < kRows) solveRow(rows + threadIndex() * kLd, square, inverse);
  syncBlock();
  for (int i = threadIndex(); i < kPanel * kRows; i += kThreads) {
    const int at = i / kRows, row = i % kRows;
    if (first + at < n && own + row < n) lower[(first + at) * n + own + row] = rows[row * kLd + at];
  }
  if (blockX() > 0) return;
  for (int i = threadIndex(); i < kPanel * kPanel; i += kThreads) {
    const int at = i / kPanel, row = i % kPanel;
    if (row >= at && first + row < n) lower[(first + at) * n + first + row] = square[row * kLd + at];
  }
  if (threadIndex() < kPanel && first + threadIndex() < n)
    left[first + threadIndex()] = left[first + threadIndex()] * square[threadIndex() * kLd + threadIndex()];
}

void launchPanels(Stream stream, const CholeskyParams& params, int batch, const Pace& pace) {
  constexpr size_t kDoubles = (kPanel + kRows) * (kPanel + 1) + kPanel + kPanel * (kPanel + kRows);
  for (int first = 0; first < params.n; first += kPanel) {
    const int behind = params.n - first - kPanel, blocks = behind > 0 ? (behind + kRows - 1) / kRows : 1;
    launch(stream, shapeOf(blocks, 1, batch, kDoubles * sizeof(double)), panelKernel,
           PanelParams{params, first, leastPivot(params.n)});
    pace(2.0 * first * kPanel * (kPanel + kRows) * blocks * batch);
  }
}

void launchScales(Stream stream, const CholeskyParams& params, bool first, int batch) {
  launch(stream, shapeOf((params.n + kThreads - 1) / kThreads, 1, batch), scaleKernel,
         ScaleParams{params.a, params.lengths, params.n, first});
}

// Columns to a block of the substitution, one a thread.
constexpr int kColumns = 128;

// Rows before the launch's are done.
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kColumns, 4) substituteKernel(FLRC_PARAMS(SubstituteParams) p) {
  const Shared<double> tile = sharedMemory<double>(0), inverse = tile + kPanel * kPanel;
  const int64_t n = p.rows, matrix = blockZ();
  const Global<const double> lower = p.lower + matrix * n * n, scale = p.lengths + matrix * kRowLengths * n;
  const int column = blockX() * kColumns + threadIndex();
  const bool inside = column < p.width;
  const Global<double> q = p.q + matrix * n * p.width + (inside ? column : 0);
  // L^T's rows from `row` and columns from `to`.
  bool used = false;
  const auto fetch = [&](int row, int to) {
    if (used) syncBlock();
    used = true;
    for (int i = threadIndex(); i < kPanel * kPanel; i += kColumns) {
      const int r = row + i / kPanel, c = to + i % kPanel;
      tile[i] = r <= c && c < n ? lower[r * n + c] : 0.0;
    }
    if (row == to && threadIndex() < kPanel && row + threadIndex() < n)
      inverse[threadIndex()] = 1 / lower[(row + threadIndex()) * (n + 1)];
    syncBlock();
  };
  for (int first = p.first; first < p.end; first += kPanel) {
    double value[kPanel];
    FLRC_UNROLL
    for (int i = 0; i < kPanel; ++i) {
      value[i] = inside && first + i < n ? q[(first + i) * p.width] * scale[first + i] : 0.0;
    }
    for (int from = 0; from < first; from += kPanel) {
      fetch(from, first);
      for (int at = 0; at < kPanel; ++at) {
        const double known = inside ? static_cast<double>(q[(from + at) * p.width]) : 0.0;
        FLRC_UNROLL
        for (int i = 0; i < kPanel; ++i) value[i] = fusedMultiplyAdd(-tile[at * kPanel + i], known, value[i]);
      }
    }
    fetch(first, first);
    FLRC_UNROLL
    for (int at = 0; at < kPanel; ++at) {
      if (first + at < n) {
        value[at] *= inverse[at];
        if (inside) q[(first + at) * p.width] = value[at];
        FLRC_UNROLL
        for (int i = at + 1; i < kPanel; ++i)
          value[i] = fusedMultiplyAdd(-tile[at * kPanel + i], value[at], value[i]);
      }
    }
  }
}

}  // namespace

void launchCholesky(Stream stream, const CholeskyParams& params, int batch, const Pace& pace) {
  launchScales(stream, params, true, batch);
  launchPanels(stream, params, batch, pace);
}

void launchSubstitute(Stream stream, const SubstituteParams& params, int batch, const Pace& pace) {
  LaunchShape shape =
      shapeOf((params.width + kColumns - 1) / kColumns, 1, batch, (kPanel + 1) * kPanel * sizeof(double));
  shape.threads = kColumns;
  const auto flopsOf = [&](int first, int end) {
    return (1.0 * end * end - 1.0 * first * first) * params.width * batch;
  };
  for (int first = 0, end; first < params.rows; first = end) {
    end = first + kPanel;
    while (end < params.rows && flopsOf(first, end + kPanel) < kFlopsPerLaunch) end += kPanel;
    SubstituteParams part = params;
    part.first = first;
    part.end = std::min(end, params.rows);
    launch(stream, shape, substituteKernel, part);
    pace(flopsOf(first, end));
  }
}

void launchOrthonormalise(Stream stream, const OrthonormaliseParams& p, int batch, int rounds,
                          const Pace& pace) {
  const CholeskyParams cholesky{p.gram, p.lower, p.lengths, p.rows};
  for (int round = 0; round < rounds; ++round) {
    launchProduct(stream, {p.q, p.q, p.gram, p.rows, p.rows, p.width, true, true}, batch, pace);
    launchScales(stream, cholesky, round == 0, batch);
    launchPanels(stream, cholesky, batch, pace);
    launchSubstitute(stream, {p.q, p.rows, p.width, p.lower, p.lengths}, batch, pace);
  }
}

}  // namespace flrc::gpu
