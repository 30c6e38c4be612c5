#include "kernels/batches.cuh"
#include "kernels/products.h"

namespace flrc::gpu {
namespace {

// A block makes 64 x 64 of c, each of its four warps 32 x 32: 2 x 4 fragments of 16 x 8.
constexpr int kThreads = 128;
constexpr int kTile = 64;
constexpr int kDepth = 16;
constexpr int kStages = 3;

// In shared memory a tile lies as it does in global memory, and a row is 4 values more than a multiple of 16
// long: what half a warp reads for a fragment, 4 by 4 values, then lies in different banks.
template <bool kByDepth>
struct Tile {
  static constexpr int kLines = kByDepth ? kTile : kDepth;
  static constexpr int kWidth = kByDepth ? kDepth : kTile;
  static constexpr int kLd = kWidth + 4;
  static constexpr int kValues = kLines * kLd;
};

// Starts fetching [line, line + kLines) x [column, column + kWidth) of a matrix [lines][columns]; zeros outside
// it.
template <bool kByDepth>
FLRC_DEVICE void fetch(Global<const double> from, int lines, int columns, int line, int column,
                       Shared<double> to) {
  using Area = Tile<kByDepth>;
  for (int i = threadIndex(); i < Area::kLines * Area::kWidth; i += kThreads) {
    const int l = i / Area::kWidth, c = i % Area::kWidth;
    const bool inside = line + l < lines && column + c < columns;
    copyValueAsync(to + (l * Area::kLd + c),
                   from + (inside ? static_cast<int64_t>(line + l) * columns + column + c : 0), inside);
  }
}

template <bool kTransposed>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kThreads, 3) productKernel(FLRC_PARAMS(ProductParams) p) {
  using Left = Tile<true>;
  using Right = Tile<kTransposed>;
  const int row = blockY() * kTile, column = blockX() * kTile;
  if (p.lower && column > row) return;
  const int64_t matrix = blockZ();
  const Global<const double> a = p.a + matrix * p.m * p.k, b = p.b + matrix * p.n * p.k;
  const Shared<double> area = sharedMemory<double>(0);
  const auto left = [&](int step) { return area + step % kStages * (Left::kValues + Right::kValues); };
  const auto right = [&](int step) { return left(step) + Left::kValues; };
  const int steps = (p.k + kDepth - 1) / kDepth;
  const auto start = [&](int step) {
    if (step < steps) {
      fetch<true>(a, p.m, p.k, row, step * kDepth, left(step));
      if constexpr (kTransposed) {
        fetch<true>(b, p.n, p.k, column, step * kDepth, right(step));
      } else {
        fetch<false>(b, p.k, p.n, step * kDepth, column, right(step));
      }
    }
    commitCopies();
  };

  const int group = laneIndex() / 4, pair = laneIndex() % 4;
  const int firstRow = warpIndex() / 2 * 32, firstColumn = warpIndex() % 2 * 32;
  double sum[2][4][4] = {};
  for (int step = 0; step < kStages - 1; ++step) start(step);
  for (int step = 0; step < steps; ++step) {
    waitCopies<kStages - 2>();
    // All have the stage, and all are done with the one before, which the next copies overwrite.
    syncBlock();
    start(step + kStages - 1);
    const Shared<const double> x = left(step), y = right(step);
    FLRC_UNROLL
    for (int depth = 0; depth < kDepth; depth += 8) {
      double rows[2][4], columns[4][2];
      FLRC_UNROLL
      for (int i = 0; i < 2; ++i) {
        FLRC_UNROLL
        for (int e = 0; e < 4; ++e)
          rows[i][e] = x[(firstRow + 16 * i + e % 2 * 8 + group) * Left::kLd + depth + e / 2 * 4 + pair];
      }
      FLRC_UNROLL
      for (int j = 0; j < 4; ++j) {
        FLRC_UNROLL
        for (int e = 0; e < 2; ++e) {
          const int at = depth + 4 * e + pair, of = firstColumn + 8 * j + group;
          columns[j][e] = kTransposed ? y[of * Right::kLd + at] : y[at * Right::kLd + of];
        }
      }
      FLRC_UNROLL
      for (int i = 0; i < 2; ++i) {
        FLRC_UNROLL
        for (int j = 0; j < 4; ++j) multiplyFragments(sum[i][j], rows[i], columns[j]);
      }
    }
  }
  waitCopies<0>();
  FLRC_UNROLL
  for (int i = 0; i < 2; ++i) {
    FLRC_UNROLL
    for (int j = 0; j < 4; ++j) {
      FLRC_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int r = row + firstRow + 16 * i + e / 2 * 8 + group,
                  c = column + firstColumn + 8 * j + 2 * pair + e % 2;
        if (r < p.m && c < p.n) p.c[(matrix * p.m + r) * p.n + c] = sum[i][j][e];
      }
    }
  }
}

template <bool kTransposed>
void launchTiles(Stream stream, const ProductParams& params, int batch) {
  LaunchShape shape =
      batches::shapeOf((params.n + kTile - 1) / kTile, (params.m + kTile - 1) / kTile, batch,
                       kStages * (Tile<true>::kValues + Tile<kTransposed>::kValues) * sizeof(double));
  shape.threads = kThreads;
  launch(stream, shape, productKernel<kTransposed>, params);
}

}  // namespace

void launchProduct(Stream stream, const ProductParams& params, int batch) {
  if (params.transposed) {
    launchTiles<true>(stream, params, batch);
  } else {
    launchTiles<false>(stream, params, batch);
  }
}

}  // namespace flrc::gpu
