#include "kernels/batches.cuh"
#include "kernels/cholesky.cuh"
#include "kernels/eigen_blocks.h"
#include "kernels/turns.cuh"

namespace flrc::gpu {
namespace {

using batches::kThreads;
using batches::kWarps;
using batches::shapeOf;

// A block of threads takes two blocks of rows: their Gram matrix, the rotations of one sweep through its
// Cholesky factor, and the product of those with the rows.
constexpr int kBlockRows = kCholeskyPanel;
constexpr int kRows = 2 * kBlockRows;
constexpr int kLd = kRows + 4;  // as in products.cu
constexpr int kMatrix = kRows * kLd;
// Of the rows' values, what is in shared memory at a time for the Gram matrix.
constexpr int kDepth = 16;
constexpr int kStages = 3;
constexpr int kDepthLd = kDepth + 4;
static_assert(kStages * kRows * kDepthLd <= kMatrix && 2 * kBlockRows * kCholeskyLd <= kMatrix);
// Threads that turn a pair of rows, all pairs of a round at once.
constexpr int kTogether = 8;
static_assert(kRows / 2 * kTogether == kThreads);

struct SweepParams {
  Global<double> rows;    // [batch][n][n]
  Global<uint32_t> busy;  // [batch][kEigenSweeps]: pairs of blocks that were turned
  int n, sweep, round;
};

int blocksOf(int n) {
  const int blocks = (n + kBlockRows - 1) / kBlockRows;
  return blocks + blocks % 2;
}

// d (+)= a b^T of 64 x 64, or a b: a warp has 16 rows by 32 columns of d.
template <bool kTransposed>
FLRC_DEVICE void multiplyTile(Shared<const double> a, int aLd, Shared<const double> b, int bLd, int depth,
                              double (&sum)[4][4]) {
  const int group = laneIndex() / 4, pair = laneIndex() % 4;
  const int row = warpIndex() / 2 * 16 + group, column = warpIndex() % 2 * 32 + group;
  for (int k = 0; k < depth; k += 8) {
    double left[4];
    FLRC_UNROLL
    for (int e = 0; e < 4; ++e) left[e] = a[(row + e % 2 * 8) * aLd + k + e / 2 * 4 + pair];
    FLRC_UNROLL
    for (int j = 0; j < 4; ++j) {
      double right[2];
      FLRC_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int at = k + 4 * e + pair, of = column + 8 * j;
        right[e] = kTransposed ? b[of * bLd + at] : b[at * bLd + of];
      }
      multiplyFragments(sum[j], left, right);
    }
  }
}

// body(row, column, value) of a warp's part.
template <typename Body>
FLRC_DEVICE void forEach(const double (&sum)[4][4], const Body& body) {
  const int group = laneIndex() / 4, pair = laneIndex() % 4;
  FLRC_UNROLL
  for (int j = 0; j < 4; ++j) {
    FLRC_UNROLL
    for (int e = 0; e < 4; ++e) {
      body(warpIndex() / 2 * 16 + e / 2 * 8 + group, warpIndex() % 2 * 32 + 8 * j + 2 * pair + e % 2,
           sum[j][e]);
    }
  }
}

// The Cholesky factor of `gram` [kRows][kLd] brought to unit diagonal, as rows of L in its place, scaled back.
// `square` and `below` [kBlockRows][kCholeskyLd] each, `inverse` [kBlockRows], `lengths` [kRows], roots of the
// diagonal.
FLRC_DEVICE void factorGram(Shared<double> gram, Shared<double> square, Shared<double> below,
                            Shared<double> inverse, Shared<const double> lengths) {
  constexpr double kLeast = 16 * kRows * 0x1.0p-53;
  const auto scaled = [&](int i, int j) {
    const double sizes = lengths[i] * lengths[j];
    return i == j ? 1.0 : sizes > 0 ? gram[i * kLd + j] / sizes : 0.0;
  };
  for (int i = threadIndex(); i < kBlockRows * kBlockRows; i += kThreads) {
    const int row = i / kBlockRows, column = i % kBlockRows;
    square[row * kCholeskyLd + column] = scaled(row, column);
    below[row * kCholeskyLd + column] = scaled(kBlockRows + row, column);
  }
  syncBlock();
  if (warpIndex() == 0) {
    factorSquare(square, inverse, kLeast);
    syncWarp();
    solveRow(below + laneIndex() * kCholeskyLd, square, inverse);
  }
  syncBlock();
  for (int i = threadIndex(); i < kBlockRows * kBlockRows; i += kThreads) {
    const int row = i / kBlockRows, column = i % kBlockRows;
    gram[row * kLd + column] = square[row * kCholeskyLd + column] * lengths[row];
    gram[row * kLd + kBlockRows + column] = 0;
    gram[(kBlockRows + row) * kLd + column] = below[row * kCholeskyLd + column] * lengths[kBlockRows + row];
    // What is left of the square below them.
    double left = scaled(kBlockRows + row, kBlockRows + column);
    for (int k = 0; k < kBlockRows; ++k)
      left = fusedMultiplyAdd(-below[row * kCholeskyLd + k], below[column * kCholeskyLd + k], left);
    square[row * kCholeskyLd + column] = left;
  }
  syncBlock();
  if (warpIndex() == 0) factorSquare(square, inverse, kLeast);
  syncBlock();
  for (int i = threadIndex(); i < kBlockRows * kBlockRows; i += kThreads) {
    const int row = i / kBlockRows, column = i % kBlockRows;
    gram[(kBlockRows + row) * kLd + kBlockRows + column] =
        square[row * kCholeskyLd + column] * lengths[kBlockRows + row];
  }
}

FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kThreads, 2) turnBlocksKernel(FLRC_PARAMS(SweepParams) p) {
  const int64_t n = p.n, matrix = blockZ();
  const Global<uint32_t> busy = p.busy + matrix * kEigenSweeps;
  if (p.sweep > 0 && busy[p.sweep - 1] == 0) return;
  const auto [one, other] = pairOf(p.round, blockX(), 2 * gridX());
  // Of an odd number of blocks one has no partner.
  if (other * kBlockRows >= p.n) return;
  const Global<double> rows = p.rows + matrix * n * n;
  const auto rowOf = [&](int i) {
    return i < kBlockRows ? one * kBlockRows + i : (other - 1) * kBlockRows + i;
  };

  // The rotations lie where what is read for the Gram matrix did, and what its factor is made of.
  const Shared<double> turns = sharedMemory<double>(0), gram = turns + kMatrix, stages = turns;
  const Shared<double> lengths = gram + kMatrix, squares = lengths + kRows, inverse = squares + kRows,
                       scratch = inverse + kBlockRows;  // [kWarps]
  double sum[4][4] = {};
  const int steps = (p.n + kDepth - 1) / kDepth;
  const auto start = [&](int step) {
    const Shared<double> to = stages + step % kStages * kRows * kDepthLd;
    for (int i = threadIndex(); step < steps && i < kRows * kDepth; i += kThreads) {
      const int row = i / kDepth, column = step * kDepth + i % kDepth;
      const bool inside = rowOf(row) < p.n && column < p.n;
      copyValueAsync(to + (row * kDepthLd + i % kDepth), rows + (inside ? rowOf(row) * n + column : 0), inside);
    }
    commitCopies();
  };
  for (int step = 0; step < kStages - 1; ++step) start(step);
  for (int step = 0; step < steps; ++step) {
    waitCopies<kStages - 2>();
    syncBlock();
    start(step + kStages - 1);
    const Shared<const double> stage = stages + step % kStages * kRows * kDepthLd;
    multiplyTile<true>(stage, kDepthLd, stage, kDepthLd, kDepth, sum);
  }
  waitCopies<0>();
  forEach(sum, [&](int row, int column, double value) {
    gram[row * kLd + column] = value;
    if (row == column) lengths[row] = value > 0 ? sqrt(value) : 0.0;
  });
  syncBlock();
  const double enough = static_cast<double>(p.n) * 0x1.0p-53;
  int wanted = 0;
  for (int i = threadIndex(); i < kRows * kRows; i += kThreads) {
    const int row = i / kRows, column = i % kRows;
    const double xx = gram[row * (kLd + 1)], yy = gram[column * (kLd + 1)];
    if (row > column && isTurned(xx, gram[row * kLd + column], yy, enough)) wanted = 1;
  }
  if (blockReduce(wanted, pointerCast<int>(scratch), [](int a, int b) { return a | b; }) == 0) return;
  if (threadIndex() == 0) atomicAdd(busy + p.sweep, 1u);

  factorGram(gram, turns, turns + kBlockRows * kCholeskyLd, inverse, lengths);
  syncBlock();
  for (int i = threadIndex(); i < kRows * kRows; i += kThreads) {
    turns[i / kRows * kLd + i % kRows] = i / kRows == i % kRows ? 1.0 : 0.0;
  }
  if (threadIndex() < kRows) squares[threadIndex()] = lengths[threadIndex()] * lengths[threadIndex()];
  syncBlock();
  const int group = threadIndex() / kTogether, lane = threadIndex() % kTogether;
  for (int round = 0; round < kRows - 1; ++round) {
    if (round > 0) syncBlock();
    const auto [x, y] = pairOf(round, group, kRows);
    const Shared<double> first = gram + x * kLd, second = gram + y * kLd, firstTurns = turns + x * kLd,
                         secondTurns = turns + y * kLd;
    constexpr int kHeld = kRows / kTogether;
    double heldX[kHeld], heldY[kHeld], xy = 0;
    FLRC_UNROLL
    for (int i = 0; i < kHeld; ++i) {
      heldX[i] = first[i * kTogether + lane];
      heldY[i] = second[i * kTogether + lane];
      xy = fusedMultiplyAdd(heldX[i], heldY[i], xy);
    }
    const double xx = squares[x], yy = squares[y];
    syncWarp();
    FLRC_UNROLL
    for (int mask = kTogether / 2; mask > 0; mask /= 2) xy += shuffleXor(xy, mask);
    if (!isTurned(xx, xy, yy, enough)) continue;
    const Turn turn(xx, xy, yy);
    if (lane == 0) {
      squares[x] = turn.firstSquare(xx, yy);
      squares[y] = turn.secondSquare(xx, yy);
    }
    FLRC_UNROLL
    for (int i = 0; i < kHeld; ++i) {
      const int at = i * kTogether + lane;
      first[at] = turn.first(heldX[i], heldY[i]);
      second[at] = turn.second(heldX[i], heldY[i]);
      const double a = firstTurns[at], b = secondTurns[at];
      firstTurns[at] = turn.first(a, b);
      secondTurns[at] = turn.second(a, b);
    }
  }
  syncBlock();

  // The rows by these, 64 columns after others, which come to where the factor was.
  for (int first = 0; first < p.n; first += kRows) {
    if (first > 0) syncBlock();
    for (int i = threadIndex(); i < kRows * kRows; i += kThreads) {
      const int row = rowOf(i / kRows), column = first + i % kRows;
      gram[i / kRows * kLd + i % kRows] =
          row < p.n && column < p.n ? static_cast<double>(rows[row * n + column]) : 0.0;
    }
    syncBlock();
    double turned[4][4] = {};
    multiplyTile<false>(turns, kLd, gram, kLd, kRows, turned);
    forEach(turned, [&](int i, int j, double value) {
      const int row = rowOf(i), column = first + j;
      if (row < p.n && column < p.n) rows[row * n + column] = value;
    });
  }
}

struct StartParams {
  Global<double> rows;
  Global<const double> lengths;
  Global<uint32_t> busy;
  int n;
};

// The factor of the matrix itself.
FLRC_KERNEL void startKernel(FLRC_PARAMS(StartParams) p) {
  const int64_t n = p.n, matrix = blockZ(), row = blockY();
  const Global<double> values = p.rows + (matrix * n + row) * n;
  const int column = blockX() * kThreads + threadIndex();
  if (row == 0 && column < kEigenSweeps) p.busy[matrix * kEigenSweeps + column] = 0;
  if (column >= p.n) return;
  const double length = p.lengths[(matrix * kRowLengths + kLength) * n + column];
  values[column] = column < row ? 0.0 : values[column] * orNothing(length);
}

// The squares of rows' lengths to kLeft. A warp has a row.
FLRC_KERNEL void measureKernel(FLRC_PARAMS(EigenParams) p) {
  const int64_t n = p.n, matrix = blockZ();
  const int row = blockX() * kWarps + warpIndex();
  if (row >= p.n) return;
  const Global<const double> values = p.rows + (matrix * n + row) * n;
  double squares = 0;
  for (int i = laneIndex(); i < p.n; i += 32) squares = fusedMultiplyAdd(values[i], values[i], squares);
  squares = warpSum(squares);
  if (laneIndex() == 0) p.lengths[(matrix * kRowLengths + kLeft) * n + row] = squares;
}

FLRC_KERNEL void sortKernel(FLRC_PARAMS(EigenParams) p) {
  const int64_t n = p.n, matrix = blockZ();
  const int row = blockX() * kWarps + warpIndex();
  if (row >= p.n) return;
  placeRow(p, p.lengths + (matrix * kRowLengths + kLeft) * n, p.rows + (matrix * n + row) * n, row);
}

}  // namespace

void launchBlockEigen(Stream stream, const EigenParams& p, int batch, const Pace& pace) {
  launch(stream, shapeOf((p.n + kThreads - 1) / kThreads, p.n, batch), startKernel,
         StartParams{p.rows, p.lengths, p.busy, p.n});
  const int blocks = blocksOf(p.n);
  constexpr size_t kDoubles = 2 * kMatrix + 2 * kRows + kBlockRows + kWarps;
  for (int sweep = 0; sweep < kEigenSweeps; ++sweep) {
    for (int round = 0; round < blocks - 1; ++round) {
      launch(stream, shapeOf(blocks / 2, 1, batch, kDoubles * sizeof(double)), turnBlocksKernel,
             SweepParams{p.rows, p.busy, p.n, sweep, round});
      // Gram matrices and products by what was turned.
      pace(4.0 * kRows * kRows * p.n * (blocks / 2) * batch);
    }
  }
  launch(stream, shapeOf((p.n + kWarps - 1) / kWarps, 1, batch), measureKernel, p);
  launch(stream, shapeOf((p.n + kWarps - 1) / kWarps, 1, batch), sortKernel, p);
}

}  // namespace flrc::gpu
