#pragma once

#include <cmath>

#include "kernels/attention.h"
#include "kernels/block.cuh"
#include "kernels/rotation.cuh"

// Decode attention of one block to its chunk of the positions, for the query heads of one key head that it has.
// Each warp attends to kWarpKeys of them; then the warps' results are put together.

namespace flrc::gpu::attention {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kWarpKeys = kAttentionChunk / kWarps;
// Lanes that share a key, 8 dimensions of it each at a time; a warp has kKeys keys at once.
inline constexpr int kKeyLanes = 8;
inline constexpr int kKeys = 32 / kKeyLanes;
inline constexpr int kSteps = kWarpKeys / kKeys;
// Lanes that share the heads of a key, once scores are added up.
inline constexpr int kShare = kKeyLanes / kSteps;
static_assert(kShare == 2);
// In place of a width that is known: any multiple of 8 up to kWidest.
inline constexpr int kAnyWidth = 0, kWidest = 256;

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

// The query heads that a block has.
struct Heads {
  int kvHead, part;  // blocks share the heads of a key head, `part` of them
  int count;
  int64_t first;  // of [column][head]
};

template <int kHeads>
FLRC_DEVICE Heads headsOf(const RotateParams& r) {
  const int group = r.heads / r.kvHeads, parts = (group + kHeads - 1) / kHeads, part = blockY() % parts;
  const int kvHead = blockY() / parts, left = group - part * kHeads;
  return {kvHead, part, left < kHeads ? left : kHeads,
          int64_t{blockZ()} * r.heads + kvHead * group + part * kHeads};
}

// A block's shared memory. Sums of values are relative to the largest score, and come with a scale: that score
// and the sum of weights.
struct Areas {
  Shared<float> query;        // [kHeads][width], scaled; in the end the block's sums
  Shared<Float2> warpScales;  // [kWarps][kHeads]
  Shared<Float2> scales;      // [kHeads], of the block's sums
  Shared<uint32_t> last;      // [4]
  Shared<uint16_t> tiles;     // [kWarps][keys, values][kWarpKeys][width]; in the end the warps' sums
};

template <int kHeads>
FLRC_DEVICE Areas areasOf(int width) {
  const Shared<float> query = sharedMemory<float>(0);
  const Shared<Float2> warpScales = pointerCast<Float2>(query + kHeads * width);
  const Shared<uint32_t> last = pointerCast<uint32_t>(warpScales + (kWarps + 2) * kHeads);
  return {query, warpScales, warpScales + kWarps * kHeads, last, pointerCast<uint16_t>(last + 4)};
}
template <int kHeads>
inline size_t sharedBytes(int width) {
  // Tiles begin at multiples of 16 bytes.
  static_assert((kWarps + 2) % 2 == 0);
  return static_cast<size_t>(4 * kHeads * width + 8 * (kWarps + 2) * kHeads + 16 + 4 * kAttentionChunk * width);
}

// The scale of `count` sums together, in order; add(which, factor) adds one of them to what the caller has.
template <typename ScaleOf, typename Add>
FLRC_DEVICE Float2 merge(int count, const ScaleOf& scaleOf, const Add& add) {
  float most = -HUGE_VALF, weights = 0;
  for (int i = 0; i < count; ++i) most = fmaxf(most, scaleOf(i).x);
  FLRC_UNROLL_BY(8)
  for (int i = 0; i < count; ++i) {
    const Float2 scale = scaleOf(i);
    const float factor = expf(scale.x - most);
    weights = fusedMultiplyAdd(factor, scale.y, weights);
    add(i, factor);
  }
  return {most, weights};
}

// What a warp has of its block's chunk, and a lane of it. kHeads: query heads of the block. kWidth: dimensions
// of a head.
template <int kHeads, int kWidth>
struct WarpKeys {
  static constexpr int kOctets = (kWidth == kAnyWidth ? kWidest : kWidth) / 8 / kKeyLanes;  // eights of a lane
  // Of the kShare lanes that have a step's key, each has kHeld heads' scores of it.
  static constexpr int kHeld = kHeads > kShare ? kHeads / kShare : 1;

  const RotateParams& r;
  CacheRow row;
  Span span;
  Heads heads;
  Areas areas;
  int width, octets, first;  // of a head; the warp's first position
  int lane, laneKey, laneOctet;
  Shared<uint16_t> keys, values;  // [kWarpKeys][width]

  FLRC_DEVICE WarpKeys(const RotateParams& params, const CacheRow& of, const Span& chunk, const Heads& some,
                       const Areas& memory)
      : r(params),
        row(of),
        span(chunk),
        heads(some),
        areas(memory),
        width(kWidth == kAnyWidth ? params.headDim : kWidth),
        octets(width / 8),
        first(chunk.base + warpIndex() * kWarpKeys),
        lane(laneIndex()),
        laneKey(lane / kKeyLanes),
        laneOctet(lane % kKeyLanes),
        keys(memory.tiles + 2 * warpIndex() * kWarpKeys * width),
        values(keys + kWarpKeys * width) {}

  FLRC_DEVICE bool isVisible(int key) const { return first + key >= span.begin && first + key < span.end; }
  FLRC_DEVICE bool isThere(int octet) const { return kWidth != kAnyWidth || octet < octets; }
  FLRC_DEVICE int64_t cachePlace(int key) const { return cacheOffset(r, row, first + key, heads.kvHead); }

  // Of the warp's keys those that column `lane` of this launch makes, or -1: they are not in the cache yet.
  FLRC_DEVICE int freshKey(int columns) const {
    if (lane >= columns) return -1;
    const CacheRow other = r.rows[lane];
    const int key = other.position - first;
    return other.keys == row.keys && key >= 0 && key < kWarpKeys && isVisible(key) ? key : -1;
  }

  // Starts fetching the keys or values that are in the cache; zeros for the others. A lane fetches what it
  // uses.
  FLRC_DEVICE void fetch(Global<const uint16_t> cache, uint32_t freshKeys, Shared<uint16_t> to) const {
    Global<const uint16_t> from = cache + (cachePlace(laneKey) + laneOctet * 8);
    FLRC_UNROLL
    for (int s = 0; s < kSteps; ++s, from += int64_t{kKeys} * r.kvHeads * width) {
      const int key = s * kKeys + laneKey;
      const bool cached = isVisible(key) && (freshKeys >> key & 1) == 0;
      FLRC_UNROLL
      for (int o = 0; o < kOctets; ++o) {
        const int octet = o * kKeyLanes + laneOctet;
        if (!isThere(octet)) continue;
        copyAsync(pointerCast<uint8_t>(to + (key * width + octet * 8)),
                  pointerCast<const uint8_t>(from + o * kKeyLanes * 8), cached ? 16 : 0);
      }
    }
  }

  // The block's queries, turned and scaled.
  FLRC_DEVICE void placeQueries(const Angles& angles) const {
    const float scale = 1.0f / sqrtf(static_cast<float>(width));
    for (int h = warpIndex(); h < kHeads; h += kWarps) {
      HeadPart head;
      if (h < heads.count) head = loadHead(r.q + (heads.first + h) * width, width);
      turnHead(head, r, r.queryNorm, angles);
      const Shared<Float2> to = pointerCast<Float2>(areas.query + h * width);
      head.forEach(width, [&](int pair, Float2 both) { to[pair] = Float2{both.x * scale, both.y * scale}; });
    }
  }

  // The key and value that another column, or this one, makes.
  FLRC_DEVICE void placeFresh(int column, int key, const Angles& angles) const {
    const int64_t from = (int64_t{column} * r.kvHeads + heads.kvHead) * width;
    HeadPart head = loadHead(r.k + from, width);
    const HeadPart value = loadHead(r.v + from, width);
    turnHead(head, r, r.keyNorm, angles);
    const auto write = [&](const HeadPart& what, Shared<uint16_t> to, Global<uint16_t> cache) {
      const Shared<uint32_t> words = pointerCast<uint32_t>(to + key * width);
      const Global<uint32_t> cached = pointerCast<uint32_t>(cache + cachePlace(key));
      what.forEach(width, [&](int pair, Float2 both) {
        const uint32_t word = narrowPair(both.x, both.y);
        words[pair] = word;
        // Of all blocks that need it, one keeps it.
        if (column == blockZ() && heads.part == 0) cached[pair] = word;
      });
    };
    write(head, keys, row.keys);
    write(value, values, row.values);
  }

  // body(step, octet of the lane's, its 8 numbers) for all that a lane has of keys or values.
  template <typename Body>
  FLRC_DEVICE void forEach(Shared<const uint16_t> from, int step, const Body& body) const {
    FLRC_UNROLL
    for (int o = 0; o < kOctets; ++o) {
      const int octet = o * kKeyLanes + laneOctet;
      if (!isThere(octet)) continue;
      float numbers[8];
      widen8(pointerCast<const Word4>(from)[(step * kKeys + laneKey) * octets + octet], numbers);
      body(o, numbers);
    }
  }

  // Scores of the key of step laneOctet / kShare, for heads laneOctet % kShare * kHeld and on.
  FLRC_DEVICE void score(float (&scores)[kSteps * kHeads]) const {
    float q[kHeads][kOctets][8] = {};
    FLRC_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      FLRC_UNROLL
      for (int o = 0; o < kOctets; ++o) {
        const int octet = o * kKeyLanes + laneOctet;
        if (!isThere(octet)) continue;
        FLRC_UNROLL
        for (int half = 0; half < 2; ++half) {
          const Float4 quad = pointerCast<const Float4>(areas.query + h * width)[octet * 2 + half];
          q[h][o][4 * half] = quad.x;
          q[h][o][4 * half + 1] = quad.y;
          q[h][o][4 * half + 2] = quad.z;
          q[h][o][4 * half + 3] = quad.w;
        }
      }
    }
    FLRC_UNROLL
    for (int s = 0; s < kSteps; ++s) {
      forEach(keys, s, [&](int o, const float(&key)[8]) {
        FLRC_UNROLL
        for (int h = 0; h < kHeads; ++h) {
          float& score = scores[s * kHeads + h];
          FLRC_UNROLL
          for (int i = 0; i < 8; ++i) score = fusedMultiplyAdd(q[h][o][i], key[i], score);
        }
      });
    }
    foldWarp<kKeyLanes / 2, 1, kSteps * kHeads>(scores);
  }

  // Scores become weights relative to the largest of the warp's keys.
  FLRC_DEVICE void weigh(const float (&scores)[kSteps * kHeads], float (&weight)[kHeld]) const {
    const bool visible = isVisible(laneOctet / kShare * kKeys + laneKey);
    FLRC_UNROLL
    for (int e = 0; e < kHeld; ++e) {
      float most = visible ? scores[e] : -HUGE_VALF;
      FLRC_UNROLL
      for (int mask = 16; mask >= kShare; mask /= 2) most = fmaxf(most, shuffleXor(most, mask));
      weight[e] = visible ? expf(scores[e] - most) : 0.0f;
      float total = weight[e];
      FLRC_UNROLL
      for (int mask = 16; mask >= kShare; mask /= 2) total += shuffleXor(total, mask);
      const int head = lane * kHeld + e;
      if (lane < kShare && head < kHeads) areas.warpScales[warpIndex() * kHeads + head] = Float2{most, total};
    }
  }

  // The sum of values by these weights takes the place of the warp's keys.
  FLRC_DEVICE void addValues(const float (&weight)[kHeld]) const {
    constexpr int kSums = kHeads * kOctets * 8, kOwn = kSums / kKeys;
    float sums[kSums] = {};
    FLRC_UNROLL
    for (int s = 0; s < kSteps; ++s) {
      float own[kHeads];
      FLRC_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        own[h] = shuffle(weight[h % kHeld], laneKey * kKeyLanes + s * kShare + h / kHeld);
      }
      forEach(values, s, [&](int o, const float(&value)[8]) {
        FLRC_UNROLL
        for (int h = 0; h < kHeads; ++h) {
          FLRC_UNROLL
          for (int i = 0; i < 8; ++i) {
            float& sum = sums[(h * kOctets + o) * 8 + i];
            sum = fusedMultiplyAdd(own[h], value[i], sum);
          }
        }
      });
    }
    foldWarp<16, kKeyLanes, kSums>(sums);
    // All lanes have read the keys.
    syncWarp();
    const Shared<float> to = pointerCast<float>(keys);
    FLRC_UNROLL
    for (int e = 0; e < kOwn; ++e) {
      const int sum = laneKey * kOwn + e, octet = sum / 8 % kOctets * kKeyLanes + laneOctet;
      if (isThere(octet)) to[sum / (8 * kOctets) * width + octet * 8 + sum % 8] = sums[e];
    }
  }
};

// The block's sums for its chunk, in areas.query with their scales.
template <int kHeads, int kWidth>
FLRC_DEVICE void attendChunk(const AttentionParams& p, const CacheRow& row, const Span& span,
                             const Heads& heads, const Areas& areas) {
  using Warp = WarpKeys<kHeads, kWidth>;
  const Warp warp(p.heads, row, span, heads, areas);
  const int fresh = warp.freshKey(p.columns);
  uint32_t freshKeys = fresh >= 0 ? 1u << fresh : 0;
  FLRC_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) freshKeys |= shuffleXor(freshKeys, mask);
  // All that is in the cache is on its way before the launch ahead is complete.
  warp.fetch(row.keys, freshKeys, warp.keys);
  warp.fetch(row.values, freshKeys, warp.values);
  commitCopies();
  const Angles angles = anglesAt(p.heads, row.position);
  dependentWait();

  warp.placeQueries(angles);
  waitCopies<0>();
  if (freshKeys != 0) {
    // Zeros are there, of all lanes.
    syncWarp();
    for (int c = 0; c < p.columns; ++c) {
      const int key = shuffle(fresh, c);
      if (key >= 0) warp.placeFresh(c, key, c == blockZ() ? angles : anglesAt(p.heads, warp.first + key));
    }
  }
  syncBlock();

  float scores[kSteps * kHeads] = {}, weight[Warp::kHeld];
  warp.score(scores);
  warp.weigh(scores, weight);
  warp.addValues(weight);
  syncBlock();

  const Shared<const float> warpSums = pointerCast<float>(areas.tiles);
  for (int i = threadIndex(); i < heads.count * warp.width; i += kThreads) {
    const int h = i / warp.width;
    float total = 0;
    // A warp's sums lie as many floats apart as its keys and values have.
    const Float2 scale = merge(
        kWarps, [&](int w) -> Float2 { return areas.warpScales[w * kHeads + h]; },
        [&](int w, float factor) {
          total = fusedMultiplyAdd(factor, warpSums[w * kWarpKeys * warp.width + i], total);
        });
    areas.query[i] = total;
    if (i % warp.width == 0) areas.scales[h] = scale;
  }
}

}  // namespace flrc::gpu::attention
