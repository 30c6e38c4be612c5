#include <cmath>
#include <utility>

#include "kernels/batches.cuh"
#include "kernels/eigen.h"

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

constexpr int kProductTile = 64;
constexpr int kProductDepth = 16;

template <bool kTransposed>
FLRC_KERNEL void productKernel(FLRC_PARAMS(ProductParams) p) {
  constexpr int kLd = kProductTile + 1;
  const Shared<double> left = sharedMemory<double>(0), right = left + kProductDepth * kLd;
  const int64_t matrix = blockZ();
  const Global<const double> a = p.a + matrix * p.m * p.k, b = p.b + matrix * p.n * p.k;
  const int row = blockY() * kProductTile, column = blockX() * kProductTile;
  const int ownRow = threadIndex() / 16, ownColumn = threadIndex() % 16;
  double sum[4][4] = {};
  for (int depth = 0; depth < p.k; depth += kProductDepth) {
    if (depth > 0) syncBlock();
    for (int i = threadIndex(); i < kProductTile * kProductDepth; i += kThreads) {
      const int line = i / kProductDepth, at = i % kProductDepth;
      const bool inside = row + line < p.m && depth + at < p.k;
      left[at * kLd + line] = inside ? a[static_cast<int64_t>(row + line) * p.k + depth + at] : 0.0;
      // Neighbouring threads read neighbouring values, whichever way b lies.
      const int other = kTransposed ? line : i % kProductTile, from = kTransposed ? at : i / kProductTile;
      const bool there = column + other < p.n && depth + from < p.k;
      const int64_t place = kTransposed ? static_cast<int64_t>(column + other) * p.k + depth + from
                                        : static_cast<int64_t>(depth + from) * p.n + column + other;
      right[from * kLd + other] = there ? b[place] : 0.0;
    }
    syncBlock();
    for (int at = 0; at < kProductDepth; ++at) {
      double x[4], y[4];
      FLRC_UNROLL
      for (int i = 0; i < 4; ++i) {
        x[i] = left[at * kLd + ownRow + 16 * i];
        y[i] = right[at * kLd + ownColumn + 16 * i];
      }
      FLRC_UNROLL
      for (int i = 0; i < 4; ++i) {
        FLRC_UNROLL
        for (int j = 0; j < 4; ++j) sum[i][j] = fusedMultiplyAdd(x[i], y[j], sum[i][j]);
      }
    }
  }
  FLRC_UNROLL
  for (int i = 0; i < 4; ++i) {
    FLRC_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int r = row + ownRow + 16 * i, c = column + ownColumn + 16 * j;
      if (r < p.m && c < p.n) p.c[(matrix * p.m + r) * p.n + c] = sum[i][j];
    }
  }
}

// Rows that are projected together, so that those before them are read once for all.
constexpr int kTogether = 4;

// Each thread goes through the same values of a row in all that follows, so that barriers are needed only where
// another row's are used.

// Takes from rows [first, first + count) what they have along rows [from, to), which are orthonormal. `dots`
// [to - from] [kTogether].
FLRC_DEVICE void projectOut(Global<double> q, int width, int from, int to, int first, int count,
                            Shared<double> dots) {
  for (int j = from + warpIndex(); j < to; j += kWarps) {
    const Global<const double> basis = q + static_cast<int64_t>(j) * width;
    double sum[kTogether] = {};
    for (int i = laneIndex(); i < width; i += 32) {
      const double value = basis[i];
      FLRC_UNROLL
      for (int r = 0; r < kTogether; ++r) {
        if (r < count) sum[r] = fusedMultiplyAdd(value, q[static_cast<int64_t>(first + r) * width + i], sum[r]);
      }
    }
    FLRC_UNROLL
    for (int r = 0; r < kTogether; ++r) {
      const double total = warpSum(sum[r]);
      if (laneIndex() == 0) dots[(j - from) * kTogether + r] = total;
    }
  }
  syncBlock();
  for (int i = threadIndex(); i < width; i += kThreads) {
    double value[kTogether] = {};
    for (int j = from; j < to; ++j) {
      const double basis = q[static_cast<int64_t>(j) * width + i];
      FLRC_UNROLL
      for (int r = 0; r < kTogether; ++r)
        value[r] = fusedMultiplyAdd(basis, dots[(j - from) * kTogether + r], value[r]);
    }
    FLRC_UNROLL
    for (int r = 0; r < kTogether; ++r) {
      if (r < count) q[static_cast<int64_t>(first + r) * width + i] -= value[r];
    }
  }
}

FLRC_KERNEL void orthonormaliseKernel(FLRC_PARAMS(OrthonormaliseParams) p) {
  const Shared<double> scratch = sharedMemory<double>(0), dots = scratch + 3 * kWarps;
  const Global<double> q = p.q + static_cast<int64_t>(blockZ()) * p.rows * p.width;
  for (int first = 0; first < p.rows; first += kTogether) {
    const int count = p.rows - first < kTogether ? p.rows - first : kTogether;
    double before[kTogether] = {};
    for (int r = 0; r < count; ++r) {
      before[r] = squaresOf(q + static_cast<int64_t>(first + r) * p.width, p.width, scratch + r % 2 * kWarps);
    }
    for (int pass = 0; pass < 2 && first > 0; ++pass) {
      // The first time the sums just made have a barrier behind all that was written.
      if (pass > 0) syncBlock();
      projectOut(q, p.width, 0, first, first, count, dots);
    }
    for (int r = 0; r < count; ++r) {
      const Global<double> row = q + static_cast<int64_t>(first + r) * p.width;
      for (int pass = 0; pass < 2 && r > 0; ++pass) {
        syncBlock();
        projectOut(q, p.width, first, first + r, first + r, 1, dots);
      }
      const double squares = squaresOf(row, p.width, scratch + 2 * kWarps);
      // Less than this is what rounding left of a row that depends on the others.
      const double least = before[r] * 1e-26;
      const double inverse = squares > least ? 1 / sqrt(squares) : 0.0;
      for (int i = threadIndex(); i < p.width; i += kThreads) row[i] = inverse > 0 ? row[i] * inverse : 0.0;
    }
  }
}

constexpr int kMostSweeps = 40;

struct Pair {
  int p, q;
};

// Players 0..n-1 (n even) meet everybody in n - 1 rounds: the last stays, the others go round.
FLRC_DEVICE Pair pairOf(int round, int index, int n) {
  const int a = index == 0 ? n - 1 : (round + index) % (n - 1), b = (round + n - 1 - index) % (n - 1);
  return {a < b ? a : b, a < b ? b : a};
}

FLRC_KERNEL void jacobiKernel(FLRC_PARAMS(JacobiParams) p) {
  const int n = p.n, even = n + n % 2, pairs = even / 2;
  const Shared<double> scratch = sharedMemory<double>(0), turns = scratch + 2 * kWarps;  // [pairs][2]
  const int64_t matrix = blockZ();
  const Global<double> a = p.a + matrix * n * n, v = p.work + matrix * n * n;
  for (int i = threadIndex(); i < n * n; i += kThreads) v[i] = i / n == i % n ? 1.0 : 0.0;

  for (int sweep = 0; sweep < kMostSweeps; ++sweep) {
    double outside = 0, all = 0;
    for (int i = threadIndex(); i < n * n; i += kThreads) {
      const double square = a[i] * a[i];
      all += square;
      if (i / n != i % n) outside += square;
    }
    outside = blockSum(outside, scratch);
    all = blockSum(all, scratch + kWarps);
    // What rounding makes anew in every round stays.
    const double small = static_cast<double>(n) * 0x1.0p-53;
    if (outside <= all * small * small) break;
    for (int round = 0; round < even - 1; ++round) {
      if (round > 0) syncBlock();
      for (int i = threadIndex(); i < pairs; i += kThreads) {
        const auto [x, y] = pairOf(round, i, even);
        double cosine = 1, sine = 0;
        if (y < n) {
          const double xx = a[x * n + x], yy = a[y * n + y], xy = a[x * n + y];
          if (xy != 0) {
            const double zeta = (yy - xx) / (2 * xy);
            const double t = (zeta >= 0 ? 1.0 : -1.0) / (fabs(zeta) + sqrt(1 + zeta * zeta));
            cosine = 1 / sqrt(1 + t * t);
            sine = cosine * t;
          }
        }
        turns[2 * i] = cosine;
        turns[2 * i + 1] = sine;
      }
      syncBlock();
      // Rows of a and of the vectors, then columns of a.
      for (int i = threadIndex(); i < pairs * n; i += kThreads) {
        const auto [x, y] = pairOf(round, i / n, even);
        if (y >= n) continue;
        const double cosine = turns[i / n * 2], sine = turns[i / n * 2 + 1];
        const int first = x * n + i % n, second = y * n + i % n;
        const double ax = a[first], ay = a[second], vx = v[first], vy = v[second];
        a[first] = cosine * ax - sine * ay;
        a[second] = sine * ax + cosine * ay;
        v[first] = cosine * vx - sine * vy;
        v[second] = sine * vx + cosine * vy;
      }
      syncBlock();
      for (int i = threadIndex(); i < pairs * n; i += kThreads) {
        // Neighbouring threads have neighbouring pairs of one row.
        const auto [x, y] = pairOf(round, i % pairs, even);
        if (y >= n) continue;
        const double cosine = turns[i % pairs * 2], sine = turns[i % pairs * 2 + 1];
        const int first = i / pairs * n + x, second = i / pairs * n + y;
        const double ax = a[first], ay = a[second];
        a[first] = cosine * ax - sine * ay;
        a[second] = sine * ax + cosine * ay;
      }
    }
    syncBlock();
  }
  for (int i = warpIndex(); i < n; i += kWarps) {
    const double value = a[i * n + i];
    double place = 0;
    for (int j = laneIndex(); j < n; j += 32) {
      const double other = a[j * n + j];
      place += other > value || (other == value && j < i) ? 1 : 0;
    }
    const int64_t to = static_cast<int64_t>(warpSum(place));
    if (laneIndex() == 0) p.values[matrix * n + to] = value;
    for (int j = laneIndex(); j < n; j += 32) p.vectors[(matrix * n + to) * n + j] = v[i * n + j];
  }
}

}  // namespace

void launchGaussian(Stream stream, const GaussianParams& params, int batch) {
  launch(stream, shapeOf((params.count / 2 + kThreads) / kThreads, 1, batch), gaussianKernel, params);
}

void launchProduct(Stream stream, const ProductParams& params, int batch) {
  const LaunchShape shape =
      shapeOf((params.n + kProductTile - 1) / kProductTile, (params.m + kProductTile - 1) / kProductTile, batch,
              size_t{2} * kProductDepth * (kProductTile + 1) * sizeof(double));
  if (params.transposed) {
    launch(stream, shape, productKernel<true>, params);
  } else {
    launch(stream, shape, productKernel<false>, params);
  }
}

void launchOrthonormalise(Stream stream, const OrthonormaliseParams& params, int batch) {
  const size_t doubles = 3 * kWarps + static_cast<size_t>(params.rows + kTogether) * kTogether;
  launch(stream, shapeOf(1, 1, batch, doubles * sizeof(double)), orthonormaliseKernel, params);
}

void launchJacobi(Stream stream, const JacobiParams& params, int batch) {
  const size_t doubles = 2 * kWarps + static_cast<size_t>(params.n) + 2;
  launch(stream, shapeOf(1, 1, batch, doubles * sizeof(double)), jacobiKernel, params);
}

void launchSketchedEigen(Stream stream, const SketchedEigenParams& p, int batch) {
  Global<double> q = p.q, image = p.image;
  launchGaussian(stream, {q, int64_t{p.sketch} * p.n, p.seeds}, batch);
  const auto apply = [&] { launchProduct(stream, {q, p.matrix, image, p.sketch, p.n, p.n, false}, batch); };
  for (int i = 0; i <= p.powerIterations; ++i) {
    apply();
    std::swap(q, image);
    launchOrthonormalise(stream, {q, p.sketch, p.n}, batch);
  }
  apply();
  launchProduct(stream, {image, q, p.small, p.sketch, p.sketch, p.n, true}, batch);
  launchJacobi(stream, {p.small, p.work, p.values, p.basis, p.sketch}, batch);
  launchProduct(stream, {p.basis, q, p.vectors, p.sketch, p.n, p.sketch, false}, batch);
}

}  // namespace flrc::gpu
