#pragma once

#include "kernels/calibrate.h"
#include "kernels/causal_attention.h"
#include "kernels/rounded_tiles.cuh"

// What attention of a sequence to itself and its way back have in common.

namespace flrc::gpu {

inline constexpr float kLog2E = 1.44269504f;

// Rows that a block has of its own, 16 a warp: so many that two blocks, each with as many of two others, fit in
// 100 KB of shared memory.
template <int kDim>
inline constexpr int kOwnRows = kDim <= 128 ? kAttentionTokens : kAttentionTokens / 2;
template <int kDim>
inline constexpr int kOwnThreads = kOwnRows<kDim> * 2;

struct RoundedSequence {
  RoundedMatrix q, k, v;
};

// q, k and v in bf16, where the first range of a sequence brings them.
inline RoundedSequence roundSequence(Stream stream, const TokenRange& range, const CausalAttentionParams& p) {
  const int64_t width = static_cast<int64_t>(p.heads) * p.headDim,
                kvWidth = static_cast<int64_t>(p.kvHeads) * p.headDim;
  const Global<uint16_t> k = p.rounded + p.tokens * width, v = k + p.tokens * kvWidth;
  const auto round = [&](Global<const float> values, int64_t across, Global<uint16_t> to) {
    if (range.first == 0) {
      launchSplit(stream, {values, p.tokens, static_cast<int>(across), across, to, nullptr});
    }
    return RoundedMatrix{to, across};
  };
  return {round(p.q, width, p.rounded), round(p.k, kvWidth, k), round(p.v, kvWidth, v)};
}

// Blocks of the range's tokens for each head.
template <int kDim>
LaunchShape shapeOf(const TokenRange& range, int heads) {
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>((range.count + kOwnRows<kDim> - 1) / kOwnRows<kDim>);
  shape.gridY = static_cast<unsigned>(heads);
  shape.threads = kOwnThreads<kDim>;
  return shape;
}

FLRC_DEVICE RoundedMatrix headOf(const RoundedMatrix& all, int head, int headDim) {
  return {all.values + head * headDim, all.ld};
}

// The first key, a multiple of `step`, that one of the queries from `query` on sees.
FLRC_DEVICE int firstKey(int query, int window, int step) {
  const int seen = query + 1 - window;
  return window > 0 && seen > 0 ? seen / step * step : 0;
}

// A warp's 16 rows of sums, times `scale`, to rows of `ld` values, `dims` of them.
template <int kOut>
FLRC_DEVICE void storeSums(const float (&sums)[kOut / 8][4], const float (&scale)[2], int row, int rows,
                           int dims, Global<float> to, int64_t ld) {
  const int lane = laneIndex();
  FLRC_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int line = row + lane / 4 + 8 * half;
    if (line >= rows) continue;
    FLRC_UNROLL
    for (int d = 0; d < kOut / 8; ++d) {
      const int dim = 8 * d + lane % 4 * 2;
      if (dim >= dims) continue;
      pointerCast<Float2>(to + (line * ld + dim))[0] =
          Float2{sums[d][2 * half] * scale[half], sums[d][2 * half + 1] * scale[half]};
    }
  }
}

}  // namespace flrc::gpu
