#include <cmath>

#include "kernels/attention.h"
#include "kernels/block.cuh"
#include "kernels/rotation.cuh"

// Decode attention, split over the positions: each warp attends to kWarpKeys of them for the query heads of one
// key head, and each block puts its warps' results together. The block that comes last of a group puts the
// group's together, and the group that comes last the groups', always in order.

namespace flrc::gpu {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kWarpKeys = kAttentionChunk / kWarps;
// Lanes that share a key, 8 dimensions of it each at a time; a warp has kKeys keys at once.
constexpr int kKeyLanes = 8;
constexpr int kKeys = 32 / kKeyLanes;
constexpr int kSteps = kWarpKeys / kKeys;
static_assert(kSteps == kKeyLanes);  // a lane of them each, when scores are added up

FLRC_DEVICE void widen8(Word4 word, float* out) {
  widenPair(word.x, out);
  widenPair(word.y, out + 2);
  widenPair(word.z, out + 4);
  widenPair(word.w, out + 6);
}

struct Span {
  int base;        // of the chunk
  int begin, end;  // positions of it that count
};

// What block `chunk` of a column at `position` has; nothing: begin >= end.
FLRC_DEVICE Span spanOf(int position, int window, int chunk) {
  const int visible = window > 0 && position + 1 > window ? position + 1 - window : 0;
  const int base = (visible / kAttentionChunk + chunk) * kAttentionChunk, end = base + kAttentionChunk;
  return {base, base < visible ? visible : base, end < position + 1 ? end : position + 1};
}

// Results of parts of the positions: [column][head][chunks, then groups], what has been added up and what it
// was scaled by: the largest score and the sum of weights relative to it.
struct Parts {
  Global<float> sums;     // [..][headDim]
  Global<Float2> scales;  // [..]
};

// Parts [from, from + count) of each of a block's heads become part `to`, or, where that is -1, the output.
FLRC_DEVICE void combine(const AttentionParams& p, const Parts& parts, int64_t firstHead, int heads, int from,
                         int count, int to) {
  const RotateParams& r = p.heads;
  const int entries = p.chunks + p.groups, quads = r.headDim / 4;
  const Global<const Float2> allScales = parts.scales;
  const Global<const Float4> allSums = pointerCast<const Float4>(parts.sums);
  for (int i = threadIndex(); i < heads * quads; i += kThreads) {
    const int64_t head = firstHead + i / quads, entry = head * entries + from;
    const Global<const Float2> scales = allScales + entry;
    const Global<const Float4> sums = allSums + (entry * quads + i % quads);
    float most = -HUGE_VALF, weights = 0;
    for (int c = 0; c < count; ++c) most = fmaxf(most, scales[c].x);
    Float4 total = {};
    FLRC_UNROLL_BY(8)
    for (int c = 0; c < count; ++c) {
      const Float2 scale = scales[c];
      const Float4 sum = sums[int64_t{c} * quads];
      const float factor = expf(scale.x - most);
      weights = fusedMultiplyAdd(factor, scale.y, weights);
      total = {fusedMultiplyAdd(factor, sum.x, total.x), fusedMultiplyAdd(factor, sum.y, total.y),
               fusedMultiplyAdd(factor, sum.z, total.z), fusedMultiplyAdd(factor, sum.w, total.w)};
    }
    if (to >= 0) {
      pointerCast<Float4>(parts.sums)[(head * entries + to) * quads + i % quads] = total;
      if (i % quads == 0) parts.scales[head * entries + to] = Float2{most, weights};
    } else {
      pointerCast<Float4>(p.out)[head * quads + i % quads] =
          Float4{total.x / weights, total.y / weights, total.z / weights, total.w / weights};
    }
  }
}

// kHeads: query heads of a block. kOctets: eights of dimensions of a lane.
template <int kHeads, int kOctets>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kThreads, 2) attentionKernel(FLRC_PARAMS(AttentionParams) p) {
  const RotateParams& r = p.heads;
  dependentTrigger();
  const int64_t column = blockZ();
  const CacheRow row = r.rows[column];
  const Span span = spanOf(row.position, p.window, blockX());
  if (span.begin >= span.end) return;

  const int group = r.heads / r.kvHeads, parts = (group + kHeads - 1) / kHeads, part = blockY() % parts;
  const int kvHead = blockY() / parts, left = group - part * kHeads, heads = left < kHeads ? left : kHeads;
  const int64_t firstHead = column * r.heads + kvHead * group + part * kHeads;
  const int lane = laneIndex(), warp = warpIndex(), octets = r.headDim / 8;

  const Shared<float> query = sharedMemory<float>(0);  // [kHeads][headDim], scaled
  const Shared<Float2> warpScales = pointerCast<Float2>(query + kHeads * r.headDim);  // [kWarps][kHeads]
  const Shared<uint32_t> last = pointerCast<uint32_t>(warpScales + kWarps * kHeads);  // [4]
  const Shared<uint16_t> tiles = pointerCast<uint16_t>(last + 4);  // [kWarps][keys, values][kWarpKeys][headDim]
  const int tile = kWarpKeys * r.headDim;
  const Shared<uint16_t> keys = tiles + 2 * warp * tile, values = keys + tile;

  // Which of the warp's positions are this launch's own tokens, which are not in the cache yet; a lane knows of
  // one column.
  const int first = span.base + warp * kWarpKeys;
  int fresh = -1;
  if (lane < p.columns) {
    const CacheRow other = r.rows[lane];
    if (other.keys == row.keys && other.position >= span.begin && other.position < span.end) {
      fresh = other.position - first;
    }
  }
  uint32_t freshKeys = fresh >= 0 && fresh < kWarpKeys ? 1u << fresh : 0;
  FLRC_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) freshKeys |= shuffleXor(freshKeys, mask);

  // All that is in the cache is on its way before the launch ahead is complete. A lane fetches what it uses.
  const auto isVisible = [&](int key) { return first + key >= span.begin && first + key < span.end; };
  const auto fetch = [&](Global<uint16_t> cache, Shared<uint16_t> to) {
    const Global<const uint16_t> from = cache + cacheOffset(r, row, first, kvHead);
    const int64_t stride = int64_t{r.kvHeads} * r.headDim;
    FLRC_UNROLL
    for (int s = 0; s < kSteps; ++s) {
      const int key = s * kKeys + lane / kKeyLanes;
      if ((freshKeys >> key & 1) != 0) continue;
      FLRC_UNROLL
      for (int o = 0; o < kOctets; ++o) {
        const int octet = o * kKeyLanes + lane % kKeyLanes;
        if (octet >= octets) continue;
        // With no bytes nothing is read, but the address must be one of the cache's.
        const int64_t at = isVisible(key) ? key * stride + octet * 8 : 0;
        copyAsync(pointerCast<uint8_t>(to + (key * r.headDim + octet * 8)),
                  pointerCast<const uint8_t>(isVisible(key) ? from + at : Global<const uint16_t>(cache)),
                  isVisible(key) ? 16 : 0);
      }
    }
    commitCopies();
  };
  fetch(row.keys, keys);
  fetch(row.values, values);
  const Angles angles = anglesAt(r, row.position);
  dependentWait();

  for (int h = warp; h < kHeads; h += kWarps) {
    HeadPart head;
    if (h < heads) head = loadHead(r.q + (firstHead + h) * r.headDim, r.headDim);
    turnHead(head, r, r.queryNorm, angles);
    const float scale = 1.0f / sqrtf(static_cast<float>(r.headDim));
    const Shared<Float2> to = pointerCast<Float2>(query + h * r.headDim);
    head.forEach(r.headDim, [&](int pair, Float2 pairs) {
      to[pair] = Float2{pairs.x * scale, pairs.y * scale};
    });
  }
  for (int c = 0; freshKeys != 0 && c < p.columns; ++c) {
    const int key = shuffle(fresh, c);
    if (key < 0 || key >= kWarpKeys) continue;
    const int64_t from = (int64_t{c} * r.kvHeads + kvHead) * r.headDim;
    HeadPart head = loadHead(r.k + from, r.headDim);
    const HeadPart value = loadHead(r.v + from, r.headDim);
    turnHead(head, r, r.keyNorm, c == column ? angles : anglesAt(r, first + key));
    const auto write = [&](const HeadPart& what, Shared<uint16_t> to, Global<uint16_t> cache) {
      const Shared<uint32_t> words = pointerCast<uint32_t>(to + key * r.headDim);
      const Global<uint32_t> cached = pointerCast<uint32_t>(cache + cacheOffset(r, row, first + key, kvHead));
      what.forEach(r.headDim, [&](int pair, Float2 both) {
        const uint32_t word = narrowPair(both.x, both.y);
        words[pair] = word;
        // Of all blocks that need it, one keeps it.
        if (c == column && part == 0) cached[pair] = word;
      });
    };
    write(head, keys, row.keys);
    write(value, values, row.values);
  }
  waitCopies<1>();
  syncBlock();

  // scores[s, h]: of step s's key of the lane; then of one key of the warp for all heads.
  float scores[kSteps * kHeads] = {};
  {
    float q[kHeads][kOctets][8];
    FLRC_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      FLRC_UNROLL
      for (int o = 0; o < kOctets; ++o) {
        const int octet = o * kKeyLanes + lane % kKeyLanes;
        FLRC_UNROLL
        for (int half = 0; half < 2; ++half) {
          Float4 quad = {};
          if (octet < octets) quad = pointerCast<const Float4>(query + h * r.headDim)[octet * 2 + half];
          q[h][o][4 * half] = quad.x;
          q[h][o][4 * half + 1] = quad.y;
          q[h][o][4 * half + 2] = quad.z;
          q[h][o][4 * half + 3] = quad.w;
        }
      }
    }
    FLRC_UNROLL
    for (int s = 0; s < kSteps; ++s) {
      FLRC_UNROLL
      for (int o = 0; o < kOctets; ++o) {
        const int octet = o * kKeyLanes + lane % kKeyLanes;
        if (octet >= octets) continue;
        float key[8];
        widen8(pointerCast<const Word4>(keys)[(s * kKeys + lane / kKeyLanes) * octets + octet], key);
        FLRC_UNROLL
        for (int h = 0; h < kHeads; ++h) {
          FLRC_UNROLL
          for (int i = 0; i < 8; ++i)
            scores[s * kHeads + h] = fusedMultiplyAdd(q[h][o][i], key[i], scores[s * kHeads + h]);
        }
      }
    }
  }
  foldWarp<kKeyLanes / 2, 1, kSteps * kHeads>(scores);
  const bool visible = isVisible(lane % kKeyLanes * kKeys + lane / kKeyLanes);
  float weight[kHeads];
  FLRC_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    float most = visible ? scores[h] : -HUGE_VALF;
    FLRC_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) most = fmaxf(most, shuffleXor(most, mask));
    weight[h] = visible ? expf(scores[h] - most) : 0.0f;
    const float total = warpSum(weight[h]);
    if (lane == 0) warpScales[warp * kHeads + h] = Float2{most, total};
  }

  waitCopies<0>();
  float sums[kHeads * kOctets * 8] = {};
  FLRC_UNROLL
  for (int s = 0; s < kSteps; ++s) {
    float own[kHeads];
    FLRC_UNROLL
    for (int h = 0; h < kHeads; ++h) own[h] = shuffle(weight[h], lane / kKeyLanes * kKeyLanes + s);
    FLRC_UNROLL
    for (int o = 0; o < kOctets; ++o) {
      const int octet = o * kKeyLanes + lane % kKeyLanes;
      if (octet >= octets) continue;
      float value[8];
      widen8(pointerCast<const Word4>(values)[(s * kKeys + lane / kKeyLanes) * octets + octet], value);
      FLRC_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        FLRC_UNROLL
        for (int i = 0; i < 8; ++i) {
          float& sum = sums[(h * kOctets + o) * 8 + i];
          sum = fusedMultiplyAdd(own[h], value[i], sum);
        }
      }
    }
  }
  constexpr int kSums = kHeads * kOctets * 8, kOwn = kSums / kKeys;
  foldWarp<16, kKeyLanes, kSums>(sums);
  // Where the warp's keys were, which all its lanes have read.
  syncWarp();
  const Shared<float> warpSums = pointerCast<float>(tiles);
  const int warpStride = tile;  // floats: as many bytes as a warp's keys and values have
  FLRC_UNROLL
  for (int e = 0; e < kOwn; ++e) {
    const int sum = lane / kKeyLanes * kOwn + e, octet = sum / 8 % kOctets * kKeyLanes + lane % kKeyLanes;
    if (octet < octets) {
      warpSums[warp * warpStride + sum / (8 * kOctets) * r.headDim + octet * 8 + sum % 8] = sums[e];
    }
  }
  syncBlock();

  const Span newest = spanOf(row.position, p.window, 0);
  const int used = (row.position - newest.base) / kAttentionChunk + 1;
  const int entries = p.chunks + p.groups;
  const Parts all{p.partial,
                  pointerCast<Float2>(p.partial + int64_t{p.columns} * r.heads * entries * r.headDim)};
  for (int i = threadIndex(); i < heads * r.headDim; i += kThreads) {
    const int h = i / r.headDim;
    float most = -HUGE_VALF, sum = 0, weights = 0;
    FLRC_UNROLL
    for (int w = 0; w < kWarps; ++w) {
      const Float2 scale = warpScales[w * kHeads + h];
      most = fmaxf(most, scale.x);
    }
    FLRC_UNROLL
    for (int w = 0; w < kWarps; ++w) {
      const Float2 scale = warpScales[w * kHeads + h];
      const float factor = expf(scale.x - most);
      sum = fusedMultiplyAdd(factor, warpSums[w * warpStride + i], sum);
      weights = fusedMultiplyAdd(factor, scale.y, weights);
    }
    if (used == 1) {
      p.out[firstHead * r.headDim + i] = sum / weights;
      continue;
    }
    const int64_t entry = (firstHead + h) * entries + blockX();
    all.sums[entry * r.headDim + i % r.headDim] = sum;
    if (i % r.headDim == 0) all.scales[entry] = Float2{most, weights};
  }
  if (used == 1) return;

  const Global<uint32_t> counters = p.counters + (column * gridY() + blockY()) * (p.groups + 1);
  const int groups = (used + kAttentionGroup - 1) / kAttentionGroup, own = blockX() / kAttentionGroup;
  const int from = own * kAttentionGroup, after = used - from;
  const int count = after < kAttentionGroup ? after : kAttentionGroup;
  if (!isLastBlock(counters + own, static_cast<uint32_t>(count), last)) return;
  combine(p, all, firstHead, heads, from, count, groups > 1 ? p.chunks + own : -1);
  if (groups == 1 || !isLastBlock(counters + p.groups, static_cast<uint32_t>(groups), last)) return;
  combine(p, all, firstHead, heads, p.chunks, groups, -1);
}

template <int kHeads, int kOctets>
void launchFor(Stream stream, const AttentionParams& params, bool dependent) {
  const RotateParams& r = params.heads;
  const int group = r.heads / r.kvHeads;
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>(params.chunks);
  shape.gridY = static_cast<unsigned>(r.kvHeads * ((group + kHeads - 1) / kHeads));
  shape.gridZ = static_cast<unsigned>(params.columns);
  shape.threads = kThreads;
  shape.dependent = dependent;
  const int bytes = 4 * kHeads * r.headDim + 8 * kWarps * kHeads + 16 + 4 * kAttentionChunk * r.headDim;
  shape.sharedBytes = static_cast<size_t>(bytes);
  launch(stream, shape, attentionKernel<kHeads, kOctets>, params);
}

template <int kOctets>
void launchOf(Stream stream, const AttentionParams& params, bool dependent) {
  const int group = params.heads.heads / params.heads.kvHeads;
  if (group == 1) return launchFor<1, kOctets>(stream, params, dependent);
  // Of wide heads a thread holds two at most.
  if (group == 2 || kOctets > 2) return launchFor<2, kOctets>(stream, params, dependent);
  launchFor<(kOctets > 2 ? 2 : 4), kOctets>(stream, params, dependent);
}

}  // namespace

void launchAttention(Stream stream, const AttentionParams& given, int columns, int length, bool dependent) {
  AttentionParams params = given;
  params.columns = columns;
  params.chunks = attentionChunks(length, params.window);
  params.groups = attentionGroups(params.chunks);
  if (params.heads.headDim <= 8 * kKeyLanes) return launchOf<1>(stream, params, dependent);
  if (params.heads.headDim <= 16 * kKeyLanes) return launchOf<2>(stream, params, dependent);
  launchOf<4>(stream, params, dependent);
}

}  // namespace flrc::gpu
