#pragma once

// Attention of a whole sequence to itself, forward and backward: on tensor cores, each factor of a product
// rounded to bf16, softmax and sums in f32. Nothing of tokens x tokens is stored (Dao et al., FlashAttention,
// 2022; Dao, FlashAttention-2, 2023). Nothing is added up by atomics.

#include "kernels/device.cuh"

namespace flrc::gpu {

// out[t, head] = softmax(q[t] . keys / sqrt(headDim)) values over the tokens up to t, of `window` only the last
// ones (0: all). q and k are rotated. headDim is a multiple of 8, at most 256; heads a multiple of kvHeads;
// everything begins at 16 bytes.
struct CausalAttentionParams {
  Global<const float> q;     // [tokens][heads * headDim]
  Global<const float> k, v;  // [tokens][kvHeads * headDim]
  int tokens, heads, kvHeads, headDim, window;
  Global<float> out;      // [tokens][heads * headDim]
  Global<float> logSums;  // [tokens][heads]: log2 of the sum of e^score, for the way back
  // Working memory, [attentionRounded()], of which a launch uses what the one before it left: q, k and v.
  Global<uint16_t> rounded;
};

// The tokens of one launch: a multiple of kAttentionTokens, and as many or, up to the end, any. A long sequence
// takes several, in order, the first of which begins at 0; each result is bitwise the same.
inline constexpr int kAttentionTokens = 64;
struct TokenRange {
  int first, count;
};

inline int64_t attentionRounded(int64_t tokens, int64_t heads, int64_t kvHeads, int64_t headDim) {
  return tokens * (heads + 2 * kvHeads) * headDim;
}
void launchCausalAttention(Stream stream, const CausalAttentionParams& params, const TokenRange& queries);

// dq, dk and dv from dOut: the gradients at the range's tokens, as queries and as keys.
struct CausalAttentionBackwardParams {
  CausalAttentionParams forward;  // out and logSums are what it left; rounded is working memory, as below
  Global<const float> dOut;       // [tokens][heads * headDim]
  Global<float> dq;               // [tokens][heads * headDim]
  Global<float> dk, dv;           // [tokens][kvHeads * headDim]
  Global<uint16_t> rounded;       // [tokens * heads * headDim]
  Global<float> dots;             // [tokens][heads]
  Global<float> parts;            // [attentionParts()], or null where that is 0
};
// Of dk and dv for each query head, where several share a key head.
inline int64_t attentionParts(int64_t tokens, int64_t heads, int64_t kvHeads, int64_t headDim) {
  return heads > kvHeads ? 2 * tokens * heads * headDim : 0;
}
void launchCausalAttentionBackward(Stream stream, const CausalAttentionBackwardParams& params,
                                   const TokenRange& tokens);

}  // namespace flrc::gpu
