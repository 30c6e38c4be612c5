#pragma once

#include <cmath>

#include "kernels/decode.h"

namespace flrc::gpu {

// Positions that a block of decode attention takes, and blocks whose results are put together at once; the
// same whatever the length or the batch is.
inline constexpr int kAttentionChunk = 128;
inline constexpr int kAttentionGroup = 16;
// Query heads of a key head that a block takes.
inline constexpr int kAttentionHeads = 4;

// Queries, keys and values as launchRotate has them, keys and values to the cache (q stays as it is); and
// out[c, head] = softmax(q . keys / sqrt(headDim)) values over the positions up to the column's own, of
// `window` only the last ones (0: all). headDim is a multiple of 8, at most 256. Columns may be positions of
// one sequence: each sees those before it. What lies at other positions of the caches, and `rows`, must be
// there before the launch ahead of this one began.
struct AttentionParams {
  RotateParams heads;
  Global<float> out;
  int window;
  // Working memory of attentionFloats and attentionCounters; the counters are 0 before the first launch and
  // after each.
  Global<float> partial;
  Global<uint32_t> counters;
  // Filled by shapeAttention and launchAttention: query heads of a key head, and blocks that share them; on
  // scores.
  int columns = 0, chunks = 0, groups = 0, sharing = 0, parts = 0;
  float scale = 0;
};

inline void shapeAttention(AttentionParams& params) {
  const RotateParams& heads = params.heads;
  params.sharing = heads.heads / heads.kvHeads;
  params.parts = (params.sharing + kAttentionHeads - 1) / kAttentionHeads;
  params.scale = heads.queryScale / std::sqrt(static_cast<float>(heads.headDim));
}

// Chunks of a launch that serves positions below `length`.
inline int attentionChunks(int length, int window) {
  const int all = (length + kAttentionChunk - 1) / kAttentionChunk;
  const int seen = (window + kAttentionChunk - 1) / kAttentionChunk + 1;
  return window > 0 && seen < all ? seen : all;
}
inline int attentionGroups(int chunks) { return (chunks + kAttentionGroup - 1) / kAttentionGroup; }
inline int64_t attentionFloats(int64_t columns, int64_t heads, int64_t headDim, int chunks) {
  return columns * heads * (chunks + attentionGroups(chunks)) * (headDim + 2);
}
inline int64_t attentionCounters(int64_t columns, int64_t heads, int chunks) {
  return columns * heads * (attentionGroups(chunks) + 1);
}

// Both from sm_90 on: clusters of blocks put short sequences' results together where the chip has room for
// them, and the launch may begin before the one ahead is complete.
struct AttentionLaunch {
  bool clusters = false, dependent = false;
};
void launchAttention(Stream stream, const AttentionParams& params, int columns, int length,
                     const AttentionLaunch& how);

// The same for consecutive positions of one sequence (prefill): queries [count][heads * headDim] of positions
// first.. first + count - 1, whose keys and values are in the cache. On tensor cores: queries and weights are
// rounded to bf16.
struct PrefillParams {
  Global<const float> q;
  Global<float> out;
  int heads, kvHeads, headDim, window;
  Global<const uint16_t> keys, values;  // of the layer: [positions][kvHeads * headDim]
  int first, count;
};
void launchPrefillAttention(Stream stream, const PrefillParams& params);

}  // namespace flrc::gpu
