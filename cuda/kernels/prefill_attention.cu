#include <cmath>

#include "kernels/attention.h"
#include "kernels/online_softmax.cuh"
#include "kernels/weights.cuh"

// Prefill attention with an online softmax (Dao, FlashAttention-2, 2023): a block has 64 queries of one head
// and goes through the keys 64 at a time. Scores and weights stay in registers; the next keys and values are
// fetched meanwhile, but for the widest heads: two stages of those are more than a block of most chips can
// have, and with one a multiprocessor of the others has room for two blocks.

namespace flrc::gpu {
namespace {

constexpr int kThreads = 128;
constexpr int kQueries = 64;  // 16 a warp
constexpr int kKeys = 64;
template <int kDim>
struct Room {
  static constexpr int kStages = kDim > 128 ? 1 : 2;
  static constexpr size_t kBytes = size_t{1 + 2 * kStages} * kKeys * (kDim + 8) * sizeof(uint16_t);
  static_assert(kBytes <= kSharedOfAnyChip);
};

// Rows [row, row + 64) of [rows][ld], headDim values each, to rows of kDim + 8; zeros outside.
template <int kDim>
FLRC_DEVICE void fetchRows(Global<const uint16_t> from, int64_t ld, int row, int rows, int headDim,
                           Shared<uint16_t> to) {
  constexpr int kPieces = kDim / 8;
  for (int i = threadIndex(); i < kKeys * kPieces; i += kThreads) {
    const int line = i / kPieces, place = i % kPieces * 8;
    const bool there = row + line < rows && place < headDim;
    copyAsync(pointerCast<uint8_t>(to + (line * (kDim + 8) + place)),
              pointerCast<const uint8_t>(from + (there ? (row + line) * ld + place : 0)), there ? 16 : 0);
  }
}

// The block's queries from row `row` on, rounded; zeros outside.
template <int kDim>
FLRC_DEVICE void placeQueries(const PrefillParams& p, int row, int head, Shared<uint16_t> to) {
  constexpr int kQuads = kDim / 4, kAtOnce = 8;
  const int64_t width = static_cast<int64_t>(p.heads) * p.headDim;
  const Global<const Float4> from = pointerCast<const Float4>(p.q + (row * width + head * p.headDim));
  for (int first = threadIndex(); first < kQueries * kQuads; first += kAtOnce * kThreads) {
    Float4 quads[kAtOnce] = {};
    FLRC_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const int line = (first + i * kThreads) / kQuads, quad = (first + i * kThreads) % kQuads;
      if (row + line < p.count && quad < p.headDim / 4) quads[i] = from[line * width / 4 + quad];
    }
    FLRC_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const int line = (first + i * kThreads) / kQuads, quad = (first + i * kThreads) % kQuads;
      pointerCast<Word2>(to + (line * (kDim + 8) + quad * 4))[0] =
          Word2{roundHalves(quads[i].x, quads[i].y), roundHalves(quads[i].z, quads[i].w)};
    }
  }
}

// Scores of the warp's queries with 64 keys.
template <int kDim>
FLRC_DEVICE void scoresOf(Shared<const uint16_t> query, Shared<const uint16_t> keys,
                          float (&scores)[kKeys / 8][4]) {
  const int lane = laneIndex(), matrix = lane / 8, line = lane % 8;
  FLRC_UNROLL
  for (int dim = 0; dim < kDim; dim += 16) {
    uint32_t left[4];
    loadMatrices<false>(left, query + ((matrix % 2 * 8 + line) * (kDim + 8) + dim + matrix / 2 * 8));
    FLRC_UNROLL
    for (int key = 0; key < kKeys; key += 16) {
      uint32_t right[4];
      loadMatrices<false>(right, keys + ((key + matrix / 2 * 8 + line) * (kDim + 8) + dim + matrix % 2 * 8));
      const uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
      multiplyFragments(scores[key / 8], left, first);
      multiplyFragments(scores[key / 8 + 1], left, second);
    }
  }
}

template <int kDim>
FLRC_DEVICE void addValues(const float (&weights)[kKeys / 8][4], Shared<const uint16_t> values,
                           Running<kDim>& running) {
  const int lane = laneIndex(), matrix = lane / 8, line = lane % 8;
  FLRC_UNROLL
  for (int key = 0; key < kKeys; key += 16) {
    const float(&low)[4] = weights[key / 8];
    const float(&high)[4] = weights[key / 8 + 1];
    // Sums of one product lie as the left side of the next wants them.
    const uint32_t left[4] = {roundHalves(low[0], low[1]), roundHalves(low[2], low[3]),
                              roundHalves(high[0], high[1]), roundHalves(high[2], high[3])};
    FLRC_UNROLL
    for (int dim = 0; dim < kDim; dim += 16) {
      uint32_t right[4];
      loadMatrices<true>(right, values + ((key + matrix % 2 * 8 + line) * (kDim + 8) + dim + matrix / 2 * 8));
      const uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
      multiplyFragments(running.out[dim / 8], left, first);
      multiplyFragments(running.out[dim / 8 + 1], left, second);
    }
  }
}

template <int kDim>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kThreads, 1) prefillKernel(FLRC_PARAMS(PrefillParams) p) {
  constexpr int kArea = kKeys * (kDim + 8), kStages = Room<kDim>::kStages;
  const Shared<uint16_t> queries = sharedMemory<uint16_t>(0), caches = queries + kArea;
  // Those with the most keys begin first.
  const int head = blockY(), row = (gridX() - 1 - blockX()) * kQueries, width = p.heads * p.headDim;
  const int64_t kvWidth = static_cast<int64_t>(p.kvHeads) * p.headDim;
  const int kvHead = head / (p.heads / p.kvHeads);
  const Global<const uint16_t> keys = p.keys + kvHead * p.headDim, values = p.values + kvHead * p.headDim;

  // All positions that one of the block's queries sees.
  const int lastRow = row + kQueries < p.count ? row + kQueries : p.count;
  const int end = p.first + lastRow, seen = p.first + row + 1 - p.window;
  const int begin = p.window > 0 && seen > 0 ? seen / kKeys * kKeys : 0;
  const int steps = (end - begin + kKeys - 1) / kKeys;
  const auto fetch = [&](int step) {
    if (step < steps) {
      const Shared<uint16_t> stage = caches + step % kStages * 2 * kArea;
      fetchRows<kDim>(keys, kvWidth, begin + step * kKeys, end, p.headDim, stage);
      fetchRows<kDim>(values, kvWidth, begin + step * kKeys, end, p.headDim, stage + kArea);
    }
    commitCopies();
  };
  fetch(0);
  placeQueries<kDim>(p, row, head, queries);

  const int ownRow = warpIndex() * 16;
  // Weights are powers of two: log2(e) is in the scale.
  const float scale = 1.44269504f / sqrtf(static_cast<float>(p.headDim));
  Running<kDim> running;
  for (int step = 0; step < steps; ++step) {
    waitCopies<0>();
    // All have the stage, and all are done with the one before, which the next copies overwrite.
    syncBlock();
    if (kStages > 1) fetch(step + 1);
    const Shared<uint16_t> stage = caches + step % kStages * 2 * kArea;
    float scores[kKeys / 8][4] = {};
    scoresOf<kDim>(queries + ownRow * (kDim + 8), stage, scores);
    weigh(scores, p.first + row + ownRow, begin + step * kKeys, p.window, scale, running);
    addValues<kDim>(scores, stage + kArea, running);
    if (kStages == 1) {
      syncBlock();
      fetch(step + 1);
    }
  }
  waitCopies<0>();

  const int lane = laneIndex();
  FLRC_UNROLL
  for (int half = 0; half < 2; ++half) {
    const float total = totalOf(running, half);
    const int line = row + ownRow + lane / 4 + 8 * half;
    if (line >= p.count) continue;
    const float share = 1.0f / total;
    const Global<float> out = p.out + (static_cast<int64_t>(line) * width + head * p.headDim);
    FLRC_UNROLL
    for (int d = 0; d < kDim / 8; ++d) {
      const int dim = 8 * d + lane % 4 * 2;
      if (dim >= p.headDim) continue;
      pointerCast<Float2>(out + dim)[0] =
          Float2{running.out[d][2 * half] * share, running.out[d][2 * half + 1] * share};
    }
  }
}

template <int kDim>
void launchFor(Stream stream, const PrefillParams& params) {
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>((params.count + kQueries - 1) / kQueries);
  shape.gridY = static_cast<unsigned>(params.heads);
  shape.threads = kThreads;
  shape.sharedBytes = Room<kDim>::kBytes;
  launch(stream, shape, prefillKernel<kDim>, params);
}

}  // namespace

void launchPrefillAttention(Stream stream, const PrefillParams& params) {
  if (params.headDim <= 64) return launchFor<64>(stream, params);
  if (params.headDim <= 128) return launchFor<128>(stream, params);
  launchFor<256>(stream, params);
}

}  // namespace flrc::gpu
