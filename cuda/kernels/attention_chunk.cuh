#pragma once

#include <cmath>

#include "kernels/attention.h"
#include "kernels/block.cuh"
#include "kernels/rotation.cuh"

// Decode attention of one block to its chunk of the positions, for up to kHeads query heads of one key head, on
// tensor cores. Each warp attends to kWarpKeys positions, the 16 rows (or the depth) of a product of fragments;
// its eight columns are the heads, each as two bf16 values whose sum it is, to 2^-17 of it. Then the warps'
// results are put together.

namespace flrc::gpu::attention {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kWarpKeys = kAttentionChunk / kWarps;
static_assert(kWarpKeys == 16);
inline constexpr int kHeads = kAttentionHeads;
// In place of a width that is known when compiling.
inline constexpr int kAnyWidth = 0;

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

// Chunks that a column at `position` attends to.
FLRC_DEVICE int chunksUpTo(int position, int window) {
  return (position - spanOf(position, window, 0).base) / kAttentionChunk + 1;
}

// The query heads that a block has.
struct Heads {
  int column;
  int kvHead, part;  // blocks share the heads of a key head, `part` of them
  int count;
  int64_t first;  // of [column][head]
};

// `index`: all parts of a key head, then those of the next.
FLRC_DEVICE Heads headsOf(const AttentionParams& p, int column, int index) {
  const int part = index % p.parts, kvHead = index / p.parts, left = p.sharing - part * kHeads;
  return {column, kvHead, part, left < kHeads ? left : kHeads,
          int64_t{column} * p.heads.heads + kvHead * p.sharing + part * kHeads};
}

// What the launch ahead has made of the columns' heads, before norms and rotation.
struct ProductHeads {
  const RotateParams& r;

  FLRC_DEVICE void await() const { dependentWait(); }
  FLRC_DEVICE HeadPart query(int64_t head, const HeadShape& shape) const {
    return loadHead(r.q + head * shape.headDim, shape);
  }
  FLRC_DEVICE HeadPart key(int64_t head, const HeadShape& shape) const {
    return loadHead(r.k + head * shape.headDim, shape);
  }
  FLRC_DEVICE HeadPart value(int64_t head, const HeadShape& shape) const {
    return loadHead(r.v + head * shape.headDim, shape);
  }
};

// Rows of shared memory are padded with zeros to whole products, and 16 bytes more than a multiple of 64 long:
// 8 of them lie in different banks.
FLRC_ANYWHERE inline constexpr int paddedWidth(int width) { return (width + 31) / 32 * 32; }
FLRC_ANYWHERE inline constexpr int rowLength(int width) { return paddedWidth(width) + 8; }
// Whether keys and values have their own place each: of wide heads all would not fit on some chips.
FLRC_ANYWHERE inline constexpr bool areTogether(int width) { return width != kAnyWidth; }

// A block's shared memory. Sums of values are relative to the largest score, and come with a scale: that score
// and the sum of weights.
struct Areas {
  Shared<uint16_t> query;     // [kHeads][2][rowLength]: what it is rounded to, scaled, and what that leaves
  Shared<Float2> warpScales;  // [kWarps][kHeads]
  Shared<Float2> scales;      // [kHeads], of the block's sums
  Shared<float> sums;         // [kHeads][width], of the block
  Shared<uint32_t> last;      // [4]
  Shared<uint16_t> tiles;     // [kWarps][keys, values][kWarpKeys][rowLength]
};

FLRC_DEVICE Areas areasOf(int width, size_t begin = 0) {
  const Shared<uint16_t> query = sharedMemory<uint16_t>(begin);
  const Shared<Float2> warpScales = pointerCast<Float2>(query + 2 * kHeads * rowLength(width));
  const Shared<Float2> scales = warpScales + kWarps * kHeads;
  const Shared<float> sums = pointerCast<float>(scales + kHeads);
  const Shared<uint32_t> last = pointerCast<uint32_t>(sums + kHeads * width);
  return {query, warpScales, scales, sums, last, pointerCast<uint16_t>(last + 4)};
}
inline size_t sharedBytes(int width, bool together) {
  const int tiles = (together ? 2 : 1) * kAttentionChunk * rowLength(width);
  return static_cast<size_t>(2 * (2 * kHeads * rowLength(width) + tiles) + 8 * (kWarps + 1) * kHeads +
                             4 * kHeads * width + 16);
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

// What a warp has of its block's chunk. Fresh: where heads come from (ProductHeads).
template <int kWidth, typename Fresh>
struct WarpKeys {
  static constexpr bool kTogether = areTogether(kWidth);

  const RotateParams& r;
  const Fresh& fresh;
  CacheRow row;
  Span span;
  Heads heads;
  Areas areas;
  int width, padded, length;  // of a head, and of a row of shared memory
  int first;                  // the warp's first position
  int lane;
  Shared<uint16_t> keys, values;  // [kWarpKeys][length]

  FLRC_DEVICE WarpKeys(const RotateParams& params, const Fresh& made, const CacheRow& of, const Span& chunk,
                       const Heads& some, const Areas& memory)
      : r(params),
        fresh(made),
        row(of),
        span(chunk),
        heads(some),
        areas(memory),
        width(kWidth == kAnyWidth ? params.headDim : kWidth),
        padded(paddedWidth(width)),
        length(rowLength(width)),
        first(chunk.base + warpIndex() * kWarpKeys),
        lane(laneIndex()),
        keys(memory.tiles + (kTogether ? 2 : 1) * warpIndex() * kWarpKeys * length),
        values(kTogether ? keys + kWarpKeys * length : keys) {}

  FLRC_DEVICE bool isVisible(int key) const { return first + key >= span.begin && first + key < span.end; }
  FLRC_DEVICE int64_t cachePlace(int key) const { return cacheOffset(r, row, first + key, heads.kvHead); }

  // Of the warp's keys the one that column `lane` of this launch makes, or -1: it is not in the cache yet.
  FLRC_DEVICE int freshKey(int columns) const {
    if (lane >= columns) return -1;
    const CacheRow other = r.rows[lane];
    const int key = other.position - first;
    return other.keys == row.keys && key >= 0 && key < kWarpKeys && isVisible(key) ? key : -1;
  }

  // Starts fetching the keys or values that are in the cache; zeros for all others.
  FLRC_DEVICE void fetch(Global<const uint16_t> cache, uint32_t freshKeys, Shared<uint16_t> to) const {
    constexpr int kLanes = 8, kRows = 32 / kLanes;  // 16 bytes of a row a lane
    const int lineOf = lane / kLanes, octets = padded / 8;
    Global<const uint16_t> from = cache + cachePlace(lineOf);
    FLRC_UNROLL
    for (int s = 0; s < kWarpKeys / kRows; ++s, from += int64_t{kRows} * r.kvHeads * width) {
      const int key = s * kRows + lineOf;
      const bool cached = isVisible(key) && (freshKeys >> key & 1) == 0;
      FLRC_UNROLL
      for (int o = 0; o < (octets + kLanes - 1) / kLanes; ++o) {
        const int octet = o * kLanes + lane % kLanes;
        if (octet >= octets) continue;
        copyAsync(pointerCast<uint8_t>(to + (key * length + octet * 8)),
                  pointerCast<const uint8_t>(from + octet * 8), cached && octet < width / 8 ? 16 : 0);
      }
    }
    commitCopies();
  }

  FLRC_DEVICE HeadShape shape() const { return {width, r.pairs}; }

  // The block's queries, turned and scaled; zeros for heads that it lacks.
  FLRC_DEVICE void placeQueries(const Angles& angles, float scale) const {
    const int h = warpIndex();
    if (h >= kHeads) return;
    const Shared<uint32_t> high = pointerCast<uint32_t>(areas.query + 2 * h * length),
                           low = pointerCast<uint32_t>(areas.query + (2 * h + 1) * length);
    HeadPart head;
    if (h < heads.count) head = fresh.query(heads.first + h, shape());
    turnHead(head, r, r.queryNorm, angles);
    head.forEach(shape(), [&](int pair, Float2 both) {
      const float x = both.x * scale, y = both.y * scale;
      const uint32_t rounded = roundHalves(x, y);
      float back[2];
      widenPair(rounded, back);
      high[pair] = rounded;
      low[pair] = roundHalves(x - back[0], y - back[1]);
    });
    for (int pair = width / 2 + lane; pair < padded / 2; pair += 32) {
      high[pair] = 0;
      low[pair] = 0;
    }
  }

  // A key or value that column `column` makes: to its place here, and, by one of all blocks that need it, to
  // the cache.
  FLRC_DEVICE void place(const HeadPart& what, int column, int key, Shared<uint16_t> to,
                         Global<uint16_t> cache) const {
    const Shared<uint32_t> words = pointerCast<uint32_t>(to + key * length);
    const Global<uint32_t> cached = pointerCast<uint32_t>(cache + cachePlace(key));
    what.forEach(shape(), [&](int pair, Float2 both) {
      const uint32_t word = roundHalves(both.x, both.y);
      words[pair] = word;
      if (column == heads.column && heads.part == 0) cached[pair] = word;
    });
  }
  FLRC_DEVICE void placeKey(int column, int key, const Angles& angles) const {
    HeadPart head = fresh.key(int64_t{column} * r.kvHeads + heads.kvHead, shape());
    turnHead(head, r, r.keyNorm, angles);
    place(head, column, key, keys, row.keys);
  }
  FLRC_DEVICE void placeValue(int column, int key) const {
    place(fresh.value(int64_t{column} * r.kvHeads + heads.kvHead, shape()), column, key, values, row.values);
  }

  // Scores of keys lane / 4 and lane / 4 + 8 for head lane % 4.
  FLRC_DEVICE Float2 score() const {
    const int matrix = lane / 8, line = lane % 8;
    float even[4] = {}, odd[4] = {};
    FLRC_UNROLL_BY(4)
    for (int dim = 0; dim < padded; dim += 32) {
      uint32_t left[4], right[4], columns[2];
      loadMatrices<false>(right, areas.query + (line * length + dim + matrix * 8));
      loadMatrices<false>(left, keys + ((matrix % 2 * 8 + line) * length + dim + matrix / 2 * 8));
      columns[0] = right[0], columns[1] = right[1];
      multiplyFragments(even, left, columns);
      loadMatrices<false>(left, keys + ((matrix % 2 * 8 + line) * length + dim + 16 + matrix / 2 * 8));
      columns[0] = right[2], columns[1] = right[3];
      multiplyFragments(odd, left, columns);
    }
    return {even[0] + odd[0] + (even[1] + odd[1]), even[2] + odd[2] + (even[3] + odd[3])};
  }

  // Scores become weights relative to the largest of the warp's keys.
  FLRC_DEVICE Float2 weigh(const Float2& scores) const {
    const bool isFirst = isVisible(lane / 4), isSecond = isVisible(lane / 4 + 8);
    float most = fmaxf(isFirst ? scores.x : -HUGE_VALF, isSecond ? scores.y : -HUGE_VALF);
    FLRC_UNROLL
    for (int mask = 4; mask < 32; mask *= 2) most = fmaxf(most, shuffleXor(most, mask));
    const Float2 weights{isFirst ? expf(scores.x - most) : 0.0f, isSecond ? expf(scores.y - most) : 0.0f};
    float total = weights.x + weights.y;
    FLRC_UNROLL
    for (int mask = 4; mask < 32; mask *= 2) total += shuffleXor(total, mask);
    if (lane < kHeads) areas.warpScales[warpIndex() * kHeads + lane] = Float2{most, total};
    return weights;
  }

  // Where the sum of a head's values lies: in place of values of the same dimensions, which are read no more.
  static FLRC_DEVICE int sumPlace(int head, int dim, int length) {
    return ((2 * head + dim % 16 / 8) * length + dim / 16 * 16) / 2 + dim % 8;
  }

  // The sums of values by these weights.
  FLRC_DEVICE void addValues(const Float2& weights) const {
    // As the right side wants them: keys lane % 4 * 2 (+ 1, + 8, + 9) of head lane / 8.
    const int from = lane % 4 * 8 + lane / 8;
    const float own[4] = {shuffle(weights.x, from), shuffle(weights.x, from + 4), shuffle(weights.y, from),
                          shuffle(weights.y, from + 4)};
    uint32_t right[2];
    FLRC_UNROLL
    for (int i = 0; i < 2; ++i) {
      const uint32_t rounded = roundHalves(own[2 * i], own[2 * i + 1]);
      float back[2];
      widenPair(rounded, back);
      const uint32_t rest = roundHalves(own[2 * i] - back[0], own[2 * i + 1] - back[1]);
      right[i] = lane / 4 % 2 == 0 ? rounded : rest;
    }
    constexpr int kAtOnce = kWidth == kAnyWidth ? 2 : kWidth / 16;
    const int matrix = lane / 8, line = lane % 8;
    const Shared<float> to = pointerCast<float>(values);
    for (int begin = 0; begin < padded; begin += 16 * kAtOnce) {
      float sums[kAtOnce][4] = {};
      FLRC_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        uint32_t left[4];
        loadMatrices<true>(left, values + ((matrix / 2 * 8 + line) * length + begin + 16 * i + matrix % 2 * 8));
        multiplyFragments(sums[i], left, right);
      }
      syncWarp();
      FLRC_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int dim = begin + 16 * i + lane / 4;
        to[sumPlace(lane % 4, dim, length)] = sums[i][0] + sums[i][1];
        to[sumPlace(lane % 4, dim + 8, length)] = sums[i][2] + sums[i][3];
      }
    }
  }
};

// The block's sums for its chunk, with their scales.
template <int kWidth, typename Fresh>
FLRC_DEVICE void attendChunk(const AttentionParams& p, const Fresh& made, const CacheRow& row, const Span& span,
                             const Heads& heads, const Areas& areas) {
  constexpr bool kTogether = areTogether(kWidth);
  const WarpKeys<kWidth, Fresh> warp(p.heads, made, row, span, heads, areas);
  const int own = warp.freshKey(p.columns);
  uint32_t freshKeys = own >= 0 ? 1u << own : 0;
  FLRC_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) freshKeys |= shuffleXor(freshKeys, mask);
  // body(column, key) for the warp's keys that are not in the cache.
  const auto forFresh = [&](const auto& body) {
    if (freshKeys == 0) return;
    // Zeros are there, of all lanes.
    syncWarp();
    for (int c = 0; c < p.columns; ++c) {
      const int key = shuffle(own, c);
      if (key >= 0) body(c, key);
    }
  };
  // All that is in the cache is on its way before the launch ahead is complete.
  warp.fetch(row.keys, freshKeys, warp.keys);
  if (kTogether) warp.fetch(row.values, freshKeys, warp.values);
  const Angles angles = anglesAt(p.heads, row.position);
  made.await();

  warp.placeQueries(angles, p.scale);
  waitCopies<0>();
  forFresh([&](int c, int key) {
    if (kTogether) warp.placeValue(c, key);
    warp.placeKey(c, key, c == heads.column ? angles : anglesAt(p.heads, warp.first + key));
  });
  syncBlock();

  const Float2 weights = warp.weigh(warp.score());
  if (!kTogether) {
    // All lanes have read the keys.
    syncWarp();
    warp.fetch(row.values, freshKeys, warp.values);
    waitCopies<0>();
    forFresh([&](int c, int key) { warp.placeValue(c, key); });
    syncWarp();
  }
  warp.addValues(weights);
  syncBlock();

  const Shared<const float> warpSums =
      pointerCast<float>(areas.tiles + (kTogether ? kWarpKeys * warp.length : 0));
  for (int i = threadIndex(); i < heads.count * warp.width; i += kThreads) {
    const int h = i / warp.width, place = warp.sumPlace(h, i % warp.width, warp.length);
    const int apart = (kTogether ? 2 : 1) * kWarpKeys * warp.length / 2;
    float total = 0;
    const Float2 scale = merge(
        kWarps, [&](int w) -> Float2 { return areas.warpScales[w * kHeads + h]; },
        [&](int w, float factor) { total = fusedMultiplyAdd(factor, warpSums[w * apart + place], total); });
    areas.sums[i] = total;
    if (i % warp.width == 0) areas.scales[h] = scale;
  }
}

}  // namespace flrc::gpu::attention
