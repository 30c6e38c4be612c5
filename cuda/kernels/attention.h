#pragma once

#include "kernels/decode.h"

namespace flrc::gpu {

// Positions that a block of decode attention takes; the same whatever the length or the batch is.
inline constexpr int kAttentionChunk = 128;

// out[c, head] = softmax(q . keys / sqrt(headDim)) values over the positions up to the column's own, of
// `window` only the last ones (0: all). headDim is a multiple of 8, at most 256.
struct AttentionParams {
  Global<const float> q;  // [columns][heads * headDim]
  Global<float> out;
  int heads, kvHeads, headDim, window;
  Global<const CacheRow> rows;
  int layer;
  // Working memory: [columns][heads][chunks][headDim + 2], and counters [columns][heads] that are 0 before the
  // first launch and after each.
  Global<float> partial;
  Global<uint32_t> counters;
  int chunks;  // filled by launchAttention
};

// Chunks of a launch that serves positions below `length`.
inline int attentionChunks(int length, int window) {
  const int all = (length + kAttentionChunk - 1) / kAttentionChunk;
  const int seen = (window + kAttentionChunk - 1) / kAttentionChunk + 1;
  return window > 0 && seen < all ? seen : all;
}

void launchAttention(Stream stream, const AttentionParams& params, int columns, int length, bool dependent);

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
