#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/batches.cuh"
#include "kernels/eigen.h"
#include "kernels/products.h"

namespace flrc::gpu {
namespace {

using namespace batches;

// core/random.h.
FLRC_DEVICE double uniformOf(uint64_t seed, uint64_t index) {
  uint64_t z = seed * 0x9e3779b97f4a7c15ull + index * 0xd1b54a32d192ed03ull + 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1.0p-53;
}

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

struct Pair {
  int p, q;
};

// Players 0..n-1 (n even) meet everybody in n - 1 rounds: the last stays, the others go round.
FLRC_DEVICE Pair pairOf(int round, int index, int n) {
  const int a = index == 0 ? n - 1 : (round + index) % (n - 1), b = (round + n - 1 - index) % (n - 1);
  return {a < b ? a : b, a < b ? b : a};
}

// Threads that turn a pair of rows.
constexpr int kTogether = 16;
constexpr int kMostSweeps = 40;

// The longest row of a matrix that is turned in shared memory, and its values to a thread.
constexpr int kMostShared = 160;
constexpr int kHeld = (kMostShared + kTogether - 1) / kTogether;

// Of a block: with more, a thread would have too few registers.
constexpr int kMostThreads = kMostShared / 4 * kTogether;
constexpr int kMostWarps = kMostThreads / 32;

// Rows lie in shared memory while they are turned, or where they came from.
template <bool kShared>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kMostThreads, 1) jacobiKernel(FLRC_PARAMS(EigenParams) p) {
  const int n = p.n, even = n + n % 2, pairs = even / 2, groups = blockThreads() / kTogether;
  const int64_t matrix = blockZ();
  const Global<double> all = p.rows + matrix * n * n;
  const Global<const double> lengths = p.lengths + (matrix * kRowLengths + kLength) * n;
  const Shared<double> scratch = sharedMemory<double>(0), area = scratch + 2 * kMostWarps;
  const auto at = [&](int row) {
    if constexpr (kShared) {
      return area + row * n;
    } else {
      return all + static_cast<int64_t>(row) * n;
    }
  };
  // The factor of the matrix itself. What is nothing at all becomes next to nothing, of which the squares'
  // product still is a number.
  constexpr double kNothing = 1e-100;
  for (int i = threadIndex(); i < n * n; i += blockThreads()) {
    const int row = i / n, column = i % n;
    const double length = lengths[column];
    at(row)[column] = column < row ? 0.0 : all[i] * (length > 0 ? length : kNothing);
  }
  syncBlock();

  const Shared<double> squares = area + (kShared ? n * n : 0);  // [n], of the rows' lengths
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
  for (int sweep = 0; sweep < kMostSweeps; ++sweep) {
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
        if constexpr (kShared) {
          FLRC_UNROLL
          for (int i = 0; i < kHeld; ++i) {
            const bool inside = active && i * kTogether + lane < n;
            heldX[i] = inside ? static_cast<double>(x[i * kTogether + lane]) : 0.0;
            heldY[i] = inside ? static_cast<double>(y[i * kTogether + lane]) : 0.0;
            xy = fusedMultiplyAdd(heldX[i], heldY[i], xy);
          }
        } else {
          for (int i = lane; active && i < n; i += kTogether) xy = fusedMultiplyAdd(x[i], y[i], xy);
        }
        const double xx = active ? static_cast<double>(squares[one]) : 0.0,
                     yy = active ? static_cast<double>(squares[other]) : 0.0;
        syncWarp();
        FLRC_UNROLL
        for (int mask = kTogether / 2; mask > 0; mask /= 2) xy += shuffleXor(xy, mask);
        if (!active) continue;
        if (!(xy * xy > enough * enough * xx * yy)) continue;
        turned = 1;
        // By half the angle whose tangent is 2 xy / (xx - yy): the longer row becomes longer, and ends in the
        // first place, since rows that fall in length are what the fewest sweeps begin with.
        const double apart = fabs(xx - yy), over = inverseRoot(fusedMultiplyAdd(apart, apart, 4 * xy * xy));
        const double square = 0.5 + 0.5 * apart * over, root = inverseRoot(square);
        const double most = square * root, least = xy * over * root, moved = xy * least * root;
        const bool swapped = xx < yy;
        const double cosine = swapped ? least : most, sine = swapped ? most : least;
        // All of the group have read them, and nobody else has these two before the barrier.
        if (lane == 0) {
          squares[one] = (swapped ? yy : xx) + moved;
          squares[other] = (swapped ? xx : yy) - moved;
        }
        const auto turn = [&](int i, double a, double b) {
          x[i] = cosine * a + sine * b;
          y[i] = swapped ? most * a - least * b : most * b - least * a;
        };
        if constexpr (kShared) {
          FLRC_UNROLL
          for (int i = 0; i < kHeld; ++i) {
            if (i * kTogether + lane < n) turn(i * kTogether + lane, heldX[i], heldY[i]);
          }
        } else {
          for (int i = lane; i < n; i += kTogether) turn(i, x[i], y[i]);
        }
      }
      syncBlock();
    }
    const int any = blockReduce(turned, pointerCast<int>(scratch), [](int a, int b) { return a | b; });
    if (any == 0) break;
  }

  measure();
  for (int i = warpIndex(); i < n; i += warps) {
    const double value = squares[i], over = 1 / sqrt(value);
    int place = 0;
    for (int j = laneIndex(); j < n; j += 32) {
      const double other = squares[j];
      place += other > value || (other == value && j < i) ? 1 : 0;
    }
    const int64_t to = matrix * n + warpSum(place);
    if (laneIndex() == 0) p.values[to] = value;
    for (int j = laneIndex(); j < n; j += 32) p.vectors[to * n + j] = at(i)[j] * over;
  }
}

}  // namespace

void launchGaussian(Stream stream, const GaussianParams& params, int batch) {
  launch(stream, shapeOf((params.count / 2 + kThreads) / kThreads, 1, batch), gaussianKernel, params);
}

void launchEigen(Stream stream, const EigenParams& p, int batch) {
  launchCholesky(stream, {p.a, p.rows, p.lengths, p.n}, batch);
  const int pairs = (p.n + 1) / 2;
  const auto doubles = [&](bool rows) {
    return static_cast<size_t>(2 * kMostWarps + p.n + (rows ? p.n * p.n : 0)) * sizeof(double);
  };
  const bool shared = p.n <= kMostShared && doubles(true) <= mostSharedBytes();
  LaunchShape shape = shapeOf(1, 1, batch, doubles(shared));
  // In shared memory each group of threads has two pairs of a round.
  shape.threads = static_cast<unsigned>(
      std::min(kMostThreads, ((shared ? (pairs + 1) / 2 : pairs) * kTogether + 31) / 32 * 32));
  launch(stream, shape, shared ? jacobiKernel<true> : jacobiKernel<false>, p);
}

void launchSketchedEigen(Stream stream, const SketchedEigenParams& p, int batch) {
  Global<double> q = p.q, image = p.image;
  launchGaussian(stream, {q, int64_t{p.sketch} * p.n, p.seeds}, batch);
  const auto apply = [&] { launchProduct(stream, {q, p.matrix, image, p.sketch, p.n, p.n, false}, batch); };
  for (int i = 0; i <= p.powerIterations; ++i) {
    apply();
    std::swap(q, image);
    const int rounds = i < p.powerIterations ? 1 : 3;
    launchOrthonormalise(stream, {q, p.sketch, p.n, p.small, p.rows, p.lengths}, batch, rounds);
  }
  apply();
  launchProduct(stream, {image, q, p.small, p.sketch, p.sketch, p.n, true, true}, batch);
  launchEigen(stream, {p.small, p.sketch, p.rows, p.lengths, p.values, p.basis}, batch);
  launchProduct(stream, {p.basis, q, p.vectors, p.sketch, p.n, p.sketch, false}, batch);
}

}  // namespace flrc::gpu
