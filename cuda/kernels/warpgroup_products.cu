#include "kernels/warpgroup_pipeline.cuh"
#include "kernels/warpgroups.h"

namespace flrc::gpu {
namespace {

using namespace warpgroups;

struct WarpgroupProductParams {
  TensorMap x, xLow, high, low;
  ThinProductParams product;
  Units units;
  int stages;  // of one product
};

// What a block has of registers and of stages, by the columns of its tiles.
template <int kColumns>
inline constexpr Registers kRegisters = kColumns == 256 ? Registers{24, 240} : Registers{40, 232};
template <int kColumns, bool kBack>
using ProductPipeline = Pipeline<SummedColumns<kColumns, kBack>, kColumns == 256 ? 4 : 6>;

// A warp's 16 rows of sums, or those of a block that is one too many.
template <int kColumns>
FLRC_DEVICE void store(const ThinProductParams& p, int firstRow, int firstColumn,
                       const float (&sums)[kColumns / 2]) {
  const bool pairs = p.outLd % 2 == 0;
  FLRC_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = firstRow + laneIndex() / 4 + half * 8;
    if (row >= p.tokens) continue;
    const Global<float> line = p.out + row * p.outLd;
    FLRC_UNROLL
    for (int c = 0; c < kColumns; c += 8) {
      const int column = firstColumn + c + laneIndex() % 4 * 2;
      Float2 pair{sums[c / 2 + half * 2], sums[c / 2 + half * 2 + 1]};
      if (pairs && column + 1 < p.rows) {
        const Global<Float2> to = pointerCast<Float2>(line + column);
        if (p.adds) {
          const Float2 before = *to;
          pair = Float2{before.x + pair.x, before.y + pair.y};
        }
        *to = pair;
        continue;
      }
      if (column < p.rows) line[column] = p.adds ? line[column] + pair.x : pair.x;
      if (column + 1 < p.rows) line[column + 1] = p.adds ? line[column + 1] + pair.y : pair.y;
    }
  }
}

template <int kColumns, bool kBack>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kThreads, 1) productKernel(FLRC_PARAMS(WarpgroupProductParams) p) {
  ProductPipeline<kColumns, kBack> pipeline;
  const bool xHalves = p.product.xLow != nullptr, halves = p.product.low != nullptr;
  if (threadIndex() / kWarpgroup == kMultiplying) {
    leaveRegisters<kRegisters<kColumns>.fetching>();
    for (int i = clusterIndex(); threadIndex() % kWarpgroup == 0 && i < p.units.count(); i += clusters()) {
      const Units::Unit unit = p.units.at(i);
      const int row = unit.row * kRows, column = unit.column * kColumns;
      // The lesser products first, whose sums lose the least by rounding.
      if (xHalves) pipeline.fetch(p.xLow, p.high, row, column, p.stages, 0);
      if (halves) pipeline.fetch(p.x, p.low, row, column, p.stages, 0);
      pipeline.fetch(p.x, p.high, row, column, p.stages, 0);
    }
  } else {
    takeRegisters<kRegisters<kColumns>.multiplying>();
    float sums[kColumns / 2];
    for (int i = clusterIndex(); i < p.units.count(); i += clusters()) {
      const Units::Unit unit = p.units.at(i);
      pipeline.multiply((1 + xHalves + halves) * p.stages, sums);
      store<kColumns>(p.product, unit.row * kRows + warpIndex() * 16, unit.column * kColumns, sums);
    }
  }
  pipeline.leave();
}

template <int kColumns>
Units unitsOf(const ThinProductParams& params) {
  return {(params.tokens + kRows - 1) / kRows, (params.rows + kColumns - 1) / kColumns, 1, 1};
}

template <int kColumns, bool kBack>
void launchTiles(Stream stream, const ThinProductParams& params, int blocks) {
  const int depth = params.x.width;
  const auto left = [&](Global<const uint16_t> half) {
    return tensorMapOf(half, params.x.ld, depth, params.tokens, 1);
  };
  const auto right = [&](Global<const uint16_t> half) {
    return tensorMapOf(half, params.ld, kBack ? params.rows : depth, kBack ? depth : params.rows, 1);
  };
  const TensorMap x = left(params.x.data), high = right(params.high);
  const Units units = unitsOf<kColumns>(params);
  launchClusters(stream, productKernel<kColumns, kBack>,
                 WarpgroupProductParams{x, params.xLow != nullptr ? left(params.xLow) : x, high,
                                        params.low != nullptr ? right(params.low) : high, params, units,
                                        (depth + kBoxWidth - 1) / kBoxWidth},
                 ProductPipeline<kColumns, kBack>::kBytes, units.count(), blocks);
}

// The time of tiles of 256 columns and of 128, by rounds in which the chip's clusters take them. The smaller
// ones fetch more for the same work.
bool takesWide(const ThinProductParams& params, int blocks) {
  const auto rounds = [&](int units) {
    return (units + blocks / kCluster - 1) / std::max(1, blocks / kCluster);
  };
  return 2 * rounds(unitsOf<256>(params).count()) <= 1.2 * rounds(unitsOf<128>(params).count());
}

}  // namespace

void launchWarpgroupThinProduct(Stream stream, const ThinProductParams& params, int blocks) {
  const bool wide = takesWide(params, blocks);
  if (params.back) {
    return wide ? launchTiles<256, true>(stream, params, blocks)
                : launchTiles<128, true>(stream, params, blocks);
  }
  wide ? launchTiles<256, false>(stream, params, blocks) : launchTiles<128, false>(stream, params, blocks);
}

}  // namespace flrc::gpu
