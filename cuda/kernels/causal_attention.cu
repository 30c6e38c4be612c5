#include "kernels/causal_attention.cuh"
#include "kernels/online_softmax.cuh"

namespace flrc::gpu {
namespace {

struct ForwardParams {
  RoundedMatrix q, k, v;
  Global<float> out, logSums;
  int tokens, heads, sharing, headDim, window, first;
};

// A block has 64 queries of one head (32 of the largest heads) and goes through as many keys at a time. Values
// come while keys are multiplied, and the next keys while values are.
template <int kDim>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kOwnThreads<kDim>, 2) forwardKernel(FLRC_PARAMS(ForwardParams) p) {
  constexpr int kRows = kOwnRows<kDim>, kThreads = kOwnThreads<kDim>;
  using Tile = RoundedTile<kDim, kRows>;
  const Shared<uint16_t> queries = sharedMemory<uint16_t>(0), keys = queries + Tile::kValues,
                         values = keys + Tile::kValues;
  // Those with the most keys begin first.
  const int head = blockY(), row = p.first + (gridX() - 1 - blockX()) * kRows;
  const RoundedMatrix k = headOf(p.k, head / p.sharing, p.headDim),
                      v = headOf(p.v, head / p.sharing, p.headDim);
  const int end = row + kRows < p.tokens ? row + kRows : p.tokens, begin = firstKey(row, p.window, kRows);
  Tile::template fetch<kThreads>(headOf(p.q, head, p.headDim), row, p.tokens, p.headDim, queries);
  Tile::template fetch<kThreads>(k, begin, end, p.headDim, keys);
  commitCopies();

  const int ownRow = warpIndex() * 16;
  const float scale = kLog2E / sqrtf(static_cast<float>(p.headDim));
  Running<kDim> running;
  for (int key = begin; key < end; key += kRows) {
    waitCopies<0>();
    // All have the keys, and all are done with the values before, which the next ones overwrite.
    syncBlock();
    Tile::template fetch<kThreads>(v, key, end, p.headDim, values);
    commitCopies();
    float scores[kRows / 8][4] = {};
    multiplyRows<kDim, kRows, kRows>(queries, ownRow, keys, scores);
    waitCopies<0>();
    syncBlock();
    if (key + kRows < end) Tile::template fetch<kThreads>(k, key + kRows, end, p.headDim, keys);
    commitCopies();
    weigh(scores, row + ownRow, key, p.window, scale, running);
    multiplySums<kDim, kRows, kDim>(scores, values, 0, running.out);
  }
  waitCopies<0>();

  float share[2];
  FLRC_UNROLL
  for (int half = 0; half < 2; ++half) {
    const float total = totalOf(running, half);
    share[half] = 1.0f / total;
    const int line = row + ownRow + laneIndex() / 4 + 8 * half;
    if (laneIndex() % 4 == 0 && line < p.tokens) {
      p.logSums[static_cast<int64_t>(line) * p.heads + head] = running.most[half] + log2f(total);
    }
  }
  storeSums<kDim>(running.out, share, row + ownRow, p.tokens, p.headDim, p.out + head * p.headDim, p.q.ld);
}

template <int kDim>
void launchFor(Stream stream, const ForwardParams& params, const TokenRange& range) {
  LaunchShape shape = shapeOf<kDim>(range, params.heads);
  shape.sharedBytes = size_t{3} * RoundedTile<kDim, kOwnRows<kDim>>::kValues * sizeof(uint16_t);
  launch(stream, shape, forwardKernel<kDim>, params);
}

}  // namespace

void launchCausalAttention(Stream stream, const CausalAttentionParams& params, const TokenRange& queries) {
  const RoundedSequence rounded = roundSequence(stream, queries, params);
  const ForwardParams forward{rounded.q,      rounded.k,     rounded.v,    params.out,
                              params.logSums, params.tokens, params.heads, params.heads / params.kvHeads,
                              params.headDim, params.window, queries.first};
  if (params.headDim <= 64) return launchFor<64>(stream, forward, queries);
  if (params.headDim <= 128) return launchFor<128>(stream, forward, queries);
  launchFor<256>(stream, forward, queries);
}

}  // namespace flrc::gpu
