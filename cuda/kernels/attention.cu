#include <cmath>

#include "kernels/attention.h"
#include "kernels/warp.cuh"
#include "kernels/weights.cuh"

// Decode attention, split over the positions: each block attends to one chunk of them for the query heads of
// one key head, and the block of a column and key head that comes last puts the chunks' parts together in
// order.

namespace flrc::gpu {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
// Lanes that share a key, 8 dimensions of it each at a time; a warp has kKeys keys at once.
constexpr int kKeyLanes = 8;
constexpr int kKeys = 32 / kKeyLanes;

FLRC_DEVICE void widen8(Word4 word, float (&out)[8]) {
  widenPair(word.x, out);
  widenPair(word.y, out + 2);
  widenPair(word.z, out + 4);
  widenPair(word.w, out + 6);
}

struct Span {
  int begin, end;  // positions
};

// Which positions block `chunk` of a column at `position` has; none: begin >= end.
FLRC_DEVICE Span spanOf(int position, int window, int chunk) {
  const int visible = window > 0 && position + 1 > window ? position + 1 - window : 0;
  const int begin = (visible / kAttentionChunk + chunk) * kAttentionChunk, end = begin + kAttentionChunk;
  return {begin < visible ? visible : begin, end < position + 1 ? end : position + 1};
}

// kHeads: query heads of a block. kOctets: eights of dimensions of a lane.
template <int kHeads, int kOctets>
FLRC_KERNEL void attentionKernel(FLRC_PARAMS(AttentionParams) p) {
  Shared<float> query = sharedMemory<float>(0);            // [kHeads][headDim], scaled
  Shared<float> scores = query + kHeads * p.headDim;       // [kHeads][kAttentionChunk]
  Shared<float> sums = scores + kHeads * kAttentionChunk;  // [kWarps][kHeads][headDim]
  Shared<uint32_t> last = pointerCast<uint32_t>(sums + kWarps * kHeads * p.headDim);
  dependentTrigger();
  dependentWait();

  const int64_t column = blockZ();
  const int group = p.heads / p.kvHeads, parts = (group + kHeads - 1) / kHeads;
  const int kvHead = blockY() / parts, firstHead = kvHead * group + blockY() % parts * kHeads;
  const int heads = group - blockY() % parts * kHeads < kHeads ? group - blockY() % parts * kHeads : kHeads;
  const CacheRow row = p.rows[column];
  const Span span = spanOf(row.position, p.window, blockX());
  if (span.begin >= span.end) return;

  const int lane = laneIndex(), octets = p.headDim / 8, kvWidth = p.kvHeads * p.headDim;
  const int64_t cached = p.layer * row.layerStride + kvHead * p.headDim;
  const Global<const Word4> keys = pointerCast<const Word4>(Global<const uint16_t>(row.keys) + cached);
  const Global<const Word4> values = pointerCast<const Word4>(Global<const uint16_t>(row.values) + cached);
  const float scale = 1.0f / sqrtf(static_cast<float>(p.headDim));
  for (int i = threadIndex(); i < kHeads * p.headDim; i += kThreads) {
    const int64_t head = firstHead + i / p.headDim;
    query[i] =
        i / p.headDim < heads ? p.q[(column * p.heads + head) * p.headDim + i % p.headDim] * scale : 0.0f;
  }
  syncBlock();

  for (int first = span.begin + warpIndex() * kKeys; first < span.end; first += kWarps * kKeys) {
    const int position = first + lane / kKeyLanes;
    float dots[kHeads] = {};
    FLRC_UNROLL
    for (int o = 0; o < kOctets; ++o) {
      const int octet = o * kKeyLanes + lane % kKeyLanes;
      if (octet >= octets || position >= span.end) continue;
      float key[8];
      widen8(keys[static_cast<int64_t>(position) * kvWidth / 8 + octet], key);
      FLRC_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        FLRC_UNROLL
        for (int i = 0; i < 8; ++i)
          dots[h] = fusedMultiplyAdd(query[h * p.headDim + octet * 8 + i], key[i], dots[h]);
      }
    }
    FLRC_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      FLRC_UNROLL
      for (int mask = kKeyLanes / 2; mask > 0; mask /= 2) dots[h] += shuffleXor(dots[h], mask);
      if (lane % kKeyLanes == 0 && position < span.end) {
        scores[h * kAttentionChunk + position - span.begin] = dots[h];
      }
    }
  }
  syncBlock();

  // A warp takes a head's softmax; what it was scaled by goes to the part.
  const int64_t part = (column * p.heads + firstHead) * p.chunks + blockX();
  const int partWidth = p.headDim + 2, length = span.end - span.begin;
  for (int h = warpIndex(); h < heads; h += kWarps) {
    float most = -HUGE_VALF, total = 0;
    for (int i = lane; i < length; i += 32) most = fmaxf(most, scores[h * kAttentionChunk + i]);
    FLRC_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) most = fmaxf(most, shuffleXor(most, mask));
    for (int i = lane; i < length; i += 32) {
      const float weight = expf(scores[h * kAttentionChunk + i] - most);
      scores[h * kAttentionChunk + i] = weight;
      total += weight;
    }
    total = warpSum(total);
    if (lane == 0) {
      p.partial[(part + static_cast<int64_t>(h) * p.chunks) * partWidth + p.headDim] = most;
      p.partial[(part + static_cast<int64_t>(h) * p.chunks) * partWidth + p.headDim + 1] = total;
    }
  }
  syncBlock();

  float sum[kHeads][kOctets][8] = {};
  for (int first = span.begin + warpIndex() * kKeys; first < span.end; first += kWarps * kKeys) {
    const int position = first + lane / kKeyLanes;
    if (position >= span.end) continue;
    FLRC_UNROLL
    for (int o = 0; o < kOctets; ++o) {
      const int octet = o * kKeyLanes + lane % kKeyLanes;
      if (octet >= octets) continue;
      float value[8];
      widen8(values[static_cast<int64_t>(position) * kvWidth / 8 + octet], value);
      FLRC_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        if (h >= heads) continue;
        const float weight = scores[h * kAttentionChunk + position - span.begin];
        FLRC_UNROLL
        for (int i = 0; i < 8; ++i) sum[h][o][i] = fusedMultiplyAdd(weight, value[i], sum[h][o][i]);
      }
    }
  }
  FLRC_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    FLRC_UNROLL
    for (int o = 0; o < kOctets; ++o) {
      const int octet = o * kKeyLanes + lane % kKeyLanes;
      FLRC_UNROLL
      for (int i = 0; i < 8; ++i) {
        float total = sum[h][o][i];
        FLRC_UNROLL
        for (int mask = kKeyLanes; mask < 32; mask *= 2) total += shuffleXor(total, mask);
        if (lane < kKeyLanes && octet < octets)
          sums[(warpIndex() * kHeads + h) * p.headDim + octet * 8 + i] = total;
      }
    }
  }
  syncBlock();
  for (int i = threadIndex(); i < heads * p.headDim; i += kThreads) {
    float total = 0;
    for (int w = 0; w < kWarps; ++w) total += sums[w * kHeads * p.headDim + i];
    p.partial[(part + static_cast<int64_t>(i / p.headDim) * p.chunks) * partWidth + i % p.headDim] = total;
  }

  syncBlock();
  const Span newest = spanOf(row.position, p.window, 0);
  const int used = (row.position / kAttentionChunk) - (newest.begin / kAttentionChunk) + 1;
  const Global<uint32_t> counter = p.counters + column * gridY() + blockY();
  if (threadIndex() == 0) last[0] = atomicAddOrdered(counter, 1u) + 1 == static_cast<uint32_t>(used) ? 1 : 0;
  syncBlock();
  if (last[0] == 0) return;
  if (threadIndex() == 0) counter[0] = 0;
  const Global<const float> parts0 = p.partial;
  for (int i = threadIndex(); i < heads * p.headDim; i += kThreads) {
    const int64_t head = firstHead + i / p.headDim;
    const Global<const float> all = parts0 + (column * p.heads + head) * p.chunks * partWidth;
    float most = -HUGE_VALF, total = 0, weights = 0;
    for (int c = 0; c < used; ++c) most = fmaxf(most, all[static_cast<int64_t>(c) * partWidth + p.headDim]);
    for (int c = 0; c < used; ++c) {
      const int64_t at = static_cast<int64_t>(c) * partWidth;
      const float factor = expf(all[at + p.headDim] - most);
      total = fusedMultiplyAdd(factor, all[at + i % p.headDim], total);
      weights = fusedMultiplyAdd(factor, all[at + p.headDim + 1], weights);
    }
    p.out[(column * p.heads + head) * p.headDim + i % p.headDim] = total / weights;
  }
}

template <int kHeads, int kOctets>
void launchFor(Stream stream, const AttentionParams& params, int columns, bool dependent) {
  const int group = params.heads / params.kvHeads;
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>(params.chunks);
  shape.gridY = static_cast<unsigned>(params.kvHeads * ((group + kHeads - 1) / kHeads));
  shape.gridZ = static_cast<unsigned>(columns);
  shape.threads = kThreads;
  shape.dependent = dependent;
  const int floats = kHeads * params.headDim * (1 + kWarps) + kHeads * kAttentionChunk;
  shape.sharedBytes = static_cast<size_t>(floats) * sizeof(float) + sizeof(uint32_t);
  launch(stream, shape, attentionKernel<kHeads, kOctets>, params);
}

template <int kOctets>
void launchOf(Stream stream, const AttentionParams& params, int columns, bool dependent) {
  const int group = params.heads / params.kvHeads;
  if (group == 1) return launchFor<1, kOctets>(stream, params, columns, dependent);
  if (group == 2) return launchFor<2, kOctets>(stream, params, columns, dependent);
  launchFor<4, kOctets>(stream, params, columns, dependent);
}

}  // namespace

void launchAttention(Stream stream, const AttentionParams& given, int columns, int length, bool dependent) {
  AttentionParams params = given;
  params.chunks = attentionChunks(length, params.window);
  if (params.headDim <= 8 * kKeyLanes) return launchOf<1>(stream, params, columns, dependent);
  if (params.headDim <= 16 * kKeyLanes) return launchOf<2>(stream, params, columns, dependent);
  launchOf<4>(stream, params, columns, dependent);
}

}  // namespace flrc::gpu
