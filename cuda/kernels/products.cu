#include <algorithm>

#include "kernels/batches.cuh"
#include "kernels/products.h"

namespace flrc::gpu {
namespace {

// A block makes 48 x 96 of c, each of its four warps 48 x 24: 3 x 3 fragments of 16 x 8.
constexpr int kThreads = 128;
constexpr int kRows = 48;
constexpr int kColumns = 96;
constexpr int kWarpColumns = 24;
constexpr int kDepth = 16;
constexpr int kStages = 3;

// In shared memory a tile lies as it does in global memory, and a row is 4 values more than a multiple of 16
// long: what half a warp reads for a fragment, 4 by 4 values, then lies in different banks.
template <int kOuter, bool kByDepth>
struct Tile {
  static constexpr int kLines = kByDepth ? kOuter : kDepth;
  static constexpr int kWidth = kByDepth ? kDepth : kOuter;
  static constexpr int kLd = kWidth + 4;
  static constexpr int kValues = kLines * kLd;
};

// Starts fetching [line, line + kLines) x [column, column + kWidth) of a matrix [lines][columns]; zeros outside
// it. kPaired: two values at a time, where rows are of even length.
template <typename Area, bool kPaired>
FLRC_DEVICE void fetch(Global<const double> from, int lines, int columns, int line, int column,
                       Shared<double> to) {
  constexpr int kAtOnce = kPaired ? 2 : 1, kPieces = Area::kWidth / kAtOnce;
  for (int i = threadIndex(); i < Area::kLines * kPieces; i += kThreads) {
    const int l = i / kPieces, c = i % kPieces * kAtOnce;
    const bool inside = line + l < lines && column + c < columns;
    const int64_t at = inside ? static_cast<int64_t>(line + l) * columns + column + c : 0;
    if constexpr (kPaired) {
      copyAsync(pointerCast<uint8_t>(to + (l * Area::kLd + c)), pointerCast<const uint8_t>(from + at),
                inside ? 16 : 0);
    } else {
      copyValueAsync(to + (l * Area::kLd + c), from + at, inside);
    }
  }
}

template <bool kTransposed, bool kPaired>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kThreads, 3) productKernel(FLRC_PARAMS(ProductParams) p) {
  using Left = Tile<kRows, true>;
  using Right = Tile<kColumns, kTransposed>;
  const int row = p.firstRow + blockY() * kRows, column = blockX() * kColumns;
  if (p.lower && column >= row + kRows) return;
  const int64_t matrix = blockZ();
  const Global<const double> a = p.a + matrix * p.m * p.k, b = p.b + matrix * p.n * p.k;
  const Shared<double> area = sharedMemory<double>(0);
  const auto left = [&](int step) { return area + step % kStages * (Left::kValues + Right::kValues); };
  const auto right = [&](int step) { return left(step) + Left::kValues; };
  const int steps = (p.k + kDepth - 1) / kDepth;
  const auto start = [&](int step) {
    if (step < steps) {
      fetch<Left, kPaired>(a, p.m, p.k, row, step * kDepth, left(step));
      if constexpr (kTransposed) {
        fetch<Right, kPaired>(b, p.n, p.k, column, step * kDepth, right(step));
      } else {
        fetch<Right, kPaired>(b, p.k, p.n, step * kDepth, column, right(step));
      }
    }
    commitCopies();
  };

  const int group = laneIndex() / 4, pair = laneIndex() % 4;
  const int firstColumn = warpIndex() * kWarpColumns;
  double sum[3][3][4] = {};
  for (int step = 0; step < kStages - 1; ++step) start(step);
  for (int step = 0; step < steps; ++step) {
    waitCopies<kStages - 2>();
    // All have the stage, and all are done with the one before, which the next copies overwrite.
    syncBlock();
    start(step + kStages - 1);
    const Shared<const double> x = left(step), y = right(step);
    FLRC_UNROLL
    for (int depth = 0; depth < kDepth; depth += 8) {
      double rows[3][4], columns[3][2];
      FLRC_UNROLL
      for (int i = 0; i < 3; ++i) {
        FLRC_UNROLL
        for (int e = 0; e < 4; ++e)
          rows[i][e] = x[(16 * i + e % 2 * 8 + group) * Left::kLd + depth + e / 2 * 4 + pair];
      }
      FLRC_UNROLL
      for (int j = 0; j < 3; ++j) {
        FLRC_UNROLL
        for (int e = 0; e < 2; ++e) {
          const int at = depth + 4 * e + pair, of = firstColumn + 8 * j + group;
          columns[j][e] = kTransposed ? y[of * Right::kLd + at] : y[at * Right::kLd + of];
        }
      }
      FLRC_UNROLL
      for (int i = 0; i < 3; ++i) {
        FLRC_UNROLL
        for (int j = 0; j < 3; ++j) multiplyFragments(sum[i][j], rows[i], columns[j]);
      }
    }
  }
  waitCopies<0>();
  FLRC_UNROLL
  for (int i = 0; i < 3; ++i) {
    FLRC_UNROLL
    for (int j = 0; j < 3; ++j) {
      FLRC_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int r = row + 16 * i + e / 2 * 8 + group, c = column + firstColumn + 8 * j + 2 * pair + e % 2;
        if (r < p.m && c < p.n) p.c[(matrix * p.m + r) * p.n + c] = sum[i][j][e];
      }
    }
  }
}

template <bool kTransposed, bool kPaired>
void launchTiles(Stream stream, const ProductParams& params, int tiles, int batch) {
  LaunchShape shape = batches::shapeOf(
      (params.n + kColumns - 1) / kColumns, tiles, batch,
      kStages * (Tile<kRows, true>::kValues + Tile<kColumns, kTransposed>::kValues) * sizeof(double));
  shape.threads = kThreads;
  launch(stream, shape, productKernel<kTransposed, kPaired>, params);
}

}  // namespace

void launchProduct(Stream stream, const ProductParams& params, int batch, const Pace& pace) {
  const bool paired = params.k % 2 == 0 && (params.transposed || params.n % 2 == 0);
  const double flopsPerTile = 2.0 * kRows * params.n * params.k * batch * (params.lower ? 0.5 : 1);
  const int tiles = (params.m + kRows - 1) / kRows,
            most = static_cast<int>(std::clamp(kFlopsPerLaunch / flopsPerTile, 1.0, 1.0 * tiles));
  for (int first = 0; first < tiles; first += most) {
    const int count = std::min(most, tiles - first);
    ProductParams part = params;
    part.firstRow = first * kRows;
    if (params.transposed) {
      paired ? launchTiles<true, true>(stream, part, count, batch)
             : launchTiles<true, false>(stream, part, count, batch);
    } else {
      paired ? launchTiles<false, true>(stream, part, count, batch)
             : launchTiles<false, false>(stream, part, count, batch);
    }
    pace(count * flopsPerTile);
  }
}

}  // namespace flrc::gpu
