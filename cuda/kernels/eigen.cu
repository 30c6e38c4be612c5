#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/batches.cuh"
#include "kernels/eigen.h"
#include "kernels/eigen_blocks.h"
#include "kernels/products.h"
#include "kernels/random.cuh"
#include "kernels/turns.cuh"

namespace flrc::gpu {
namespace {

using namespace batches;

FLRC_KERNEL void gaussianKernel(FLRC_PARAMS(GaussianParams) p) {
  constexpr double kPi = 3.14159265358979323846;
  const int64_t i = 2 * (static_cast<int64_t>(blockX()) * kThreads + threadIndex());
  if (i >= p.count) return;
  const uint64_t seed = p.seeds[blockZ()], index = static_cast<uint64_t>(i);
  const double radius = sqrt(-2 * log(1 - uniformOf(seed, index))),
               angle = 2 * kPi * uniformOf(seed, index + 1);
  const Global<double> out = p.out + static_cast<int64_t>(blockZ()) * p.count;
  out[i] = radius * cos(angle);
  if (i + 1 < p.count) out[i + 1] = radius * sin(angle);
}

// A block has a matrix.
FLRC_KERNEL void shiftKernel(FLRC_PARAMS(ShiftParams) p) {
  const int64_t step = int64_t{p.n} + 1;
  const Global<double> matrix = p.matrix + static_cast<int64_t>(blockZ()) * p.n * p.n;
  double trace = 0;
  for (int i = threadIndex(); i < p.n; i += kThreads) trace += matrix[i * step];
  const double shift = kEigenShift * blockSum(trace, sharedMemory<double>(0));
  for (int i = threadIndex(); i < p.n; i += kThreads) matrix[i * step] = matrix[i * step] + shift;
  if (threadIndex() == 0) p.shift[blockZ()] = shift;
}

// Threads that turn a pair of rows.
constexpr int kTogether = 16;

// The longest row of a matrix that one block turns, and its values to a thread.
constexpr int kMostShared = 160;
constexpr int kHeld = (kMostShared + kTogether - 1) / kTogether;
// Of a block: with more, a thread would have too few registers.
constexpr int kMostThreads = kMostShared / 4 * kTogether;
constexpr int kMostWarps = kMostThreads / 32;

FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kMostThreads, 1) jacobiKernel(FLRC_PARAMS(EigenParams) p) {
  const int n = p.n, even = n + n % 2, pairs = even / 2, groups = blockThreads() / kTogether;
  const int64_t matrix = blockZ();
  const Global<const double> all = p.rows + matrix * n * n;
  const Global<const double> lengths = p.lengths + (matrix * kRowLengths + kLength) * n;
  const Shared<double> scratch = sharedMemory<double>(0), area = scratch + 2 * kMostWarps;
  const auto at = [&](int row) { return area + row * n; };
  // The factor of the matrix itself.
  for (int i = threadIndex(); i < n * n; i += blockThreads()) {
    const int row = i / n, column = i % n;
    area[i] = column < row ? 0.0 : all[i] * orNothing(lengths[column]);
  }
  syncBlock();
  const Shared<double> squares = area + n * n;  // [n], of the rows' lengths
  const int warps = blockThreads() / 32;
  const auto measure = [&] {
    for (int i = warpIndex(); i < n; i += warps) {
      double sum = 0;
      for (int j = laneIndex(); j < n; j += 32) sum = fusedMultiplyAdd(at(i)[j], at(i)[j], sum);
      sum = warpSum(sum);
      if (laneIndex() == 0) squares[i] = sum;
    }
    syncBlock();
  };

  const int group = threadIndex() / kTogether, lane = threadIndex() % kTogether;
  const double enough = static_cast<double>(n) * 0x1.0p-53;
  for (int sweep = 0; sweep < kEigenSweeps; ++sweep) {
    // In a sweep they are kept up to date, which rounding tells in the end.
    measure();
    int turned = 0;
    for (int round = 0; round < even - 1; ++round) {
      for (int first = 0; first < pairs; first += groups) {
        const auto [one, other] = pairOf(round, first + group < pairs ? first + group : 0, even);
        // Of an odd number of rows one has no partner.
        const bool active = first + group < pairs && other < n;
        const auto x = at(one), y = at(active ? other : one);
        double xy = 0, heldX[kHeld], heldY[kHeld];
        FLRC_UNROLL
        for (int i = 0; i < kHeld; ++i) {
          const bool inside = active && i * kTogether + lane < n;
          heldX[i] = inside ? static_cast<double>(x[i * kTogether + lane]) : 0.0;
          heldY[i] = inside ? static_cast<double>(y[i * kTogether + lane]) : 0.0;
          xy = fusedMultiplyAdd(heldX[i], heldY[i], xy);
        }
        const double xx = active ? static_cast<double>(squares[one]) : 0.0,
                     yy = active ? static_cast<double>(squares[other]) : 0.0;
        syncWarp();
        FLRC_UNROLL
        for (int mask = kTogether / 2; mask > 0; mask /= 2) xy += shuffleXor(xy, mask);
        if (!active) continue;
        if (!isTurned(xx, xy, yy, enough)) continue;
        turned = 1;
        const Turn turn(xx, xy, yy);
        // All of the group have read them, and nobody else has these two before the barrier.
        if (lane == 0) {
          squares[one] = turn.firstSquare(xx, yy);
          squares[other] = turn.secondSquare(xx, yy);
        }
        FLRC_UNROLL
        for (int i = 0; i < kHeld; ++i) {
          const int to = i * kTogether + lane;
          if (to >= n) continue;
          x[to] = turn.first(heldX[i], heldY[i]);
          y[to] = turn.second(heldX[i], heldY[i]);
        }
      }
      syncBlock();
    }
    const int any = blockReduce(turned, pointerCast<int>(scratch), [](int a, int b) { return a | b; });
    if (any == 0) break;
  }

  measure();
  for (int i = warpIndex(); i < n; i += warps) placeRow(p, squares, at(i), i);
}

}  // namespace

void launchGaussian(Stream stream, const GaussianParams& params, int batch) {
  launch(stream, shapeOf((params.count / 2 + kThreads) / kThreads, 1, batch), gaussianKernel, params);
}

void launchShift(Stream stream, const ShiftParams& params, int batch) {
  launch(stream, shapeOf(1, 1, batch, kWarps * sizeof(double)), shiftKernel, params);
}

void launchEigen(Stream stream, const EigenParams& p, int batch, const Pace& pace) {
  launchCholesky(stream, {p.a, p.rows, p.lengths, p.n}, batch, pace);
  LaunchShape shape =
      shapeOf(1, 1, batch, static_cast<size_t>(2 * kMostWarps + p.n + p.n * p.n) * sizeof(double));
  if (p.n > kMostShared || shape.sharedBytes > mostSharedBytes())
    return launchBlockEigen(stream, p, batch, pace);
  shape.fitted = true;
  // Each group of threads has two pairs of a round.
  const int pairs = (p.n + 1) / 2;
  shape.threads = static_cast<unsigned>(std::min(kMostThreads, ((pairs + 1) / 2 * kTogether + 31) / 32 * 32));
  launch(stream, shape, jacobiKernel, p);
}

void launchSketchedEigen(Stream stream, const SketchedEigenParams& p, int batch, const Pace& pace) {
  Global<double> q = p.q, image = p.image;
  launchGaussian(stream, {q, int64_t{p.sketch} * p.n, p.seeds}, batch);
  const auto apply = [&] {
    launchProduct(stream, {q, p.matrix, image, p.sketch, p.n, p.n, false}, batch, pace);
  };
  for (int i = 0; i <= p.powerIterations; ++i) {
    apply();
    std::swap(q, image);
    const int rounds = i < p.powerIterations ? 1 : 3;
    launchOrthonormalise(stream, {q, p.sketch, p.n, p.small, p.rows, p.lengths}, batch, rounds, pace);
  }
  apply();
  launchProduct(stream, {image, q, p.small, p.sketch, p.sketch, p.n, true, true}, batch, pace);
  launchShift(stream, {p.small, p.sketch, p.shift}, batch);
  launchEigen(stream, {p.small, p.sketch, p.shift, p.rows, p.lengths, p.busy, p.values, p.basis}, batch, pace);
  launchProduct(stream, {p.basis, q, p.vectors, p.sketch, p.n, p.sketch, false}, batch, pace);
}

}  // namespace flrc::gpu
