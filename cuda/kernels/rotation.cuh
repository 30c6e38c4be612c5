#pragma once

#include "kernels/decode.h"
#include "kernels/warp.cuh"
#include "kernels/weights.cuh"

// Norm and rotation of one head by one warp, for what writes the cache and for what attends to it.

namespace flrc::gpu {

// How a head's words of two neighbours pair up: those that are turned together, then the halves of what is not
// turned.
struct HeadShape {
  int headDim, pairs;

  FLRC_DEVICE int count() const { return headDim / 4; }
  FLRC_DEVICE int turned() const { return pairs / 2; }
  FLRC_DEVICE int low(int pair) const { return pair < turned() ? pair : pair + turned(); }
  FLRC_DEVICE int high(int pair) const { return pair < turned() ? pair + turned() : pair + count(); }
};

// What a lane holds of a head: every 32nd low word, from the lane's own on, and its partner.
struct HeadPart {
  static constexpr int kPairs = 2;  // heads have at most 256 dimensions
  Float2 low[kPairs] = {}, high[kPairs] = {};

  // body(which word of the head, its values) for all of a lane's.
  template <typename Body>
  FLRC_DEVICE void forEach(const HeadShape& shape, const Body& body) const {
    FLRC_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      const int pair = laneIndex() + 32 * i;
      if (pair >= shape.count()) continue;
      body(shape.low(pair), low[i]);
      body(shape.high(pair), high[i]);
    }
  }
};

FLRC_DEVICE HeadPart loadHead(Global<const float> head, const HeadShape& shape) {
  const Global<const Float2> words = pointerCast<const Float2>(head);
  HeadPart part;
  FLRC_UNROLL
  for (int i = 0; i < HeadPart::kPairs; ++i) {
    const int pair = laneIndex() + 32 * i;
    if (pair >= shape.count()) continue;
    part.low[i] = words[shape.low(pair)];
    part.high[i] = words[shape.high(pair)];
  }
  return part;
}

// Of a lane's pairs at one position; nothing is turned by what they are made with.
struct Angles {
  Float2 cosine[HeadPart::kPairs], sine[HeadPart::kPairs] = {};

  FLRC_DEVICE Angles() {
    FLRC_UNROLL
    for (Float2& both : cosine) both = {1.0f, 1.0f};
  }
};

// Of RotateParams or TurnParams.
template <typename Params>
FLRC_DEVICE Angles anglesAt(const Params& p, int position) {
  const int turned = p.pairs / 2;
  const Global<const Float2> cosines = pointerCast<const Float2>(p.cosine) + int64_t{position} * turned;
  const Global<const Float2> sines = pointerCast<const Float2>(p.sine) + int64_t{position} * turned;
  Angles angles;
  FLRC_UNROLL
  for (int i = 0; i < HeadPart::kPairs; ++i) {
    const int pair = laneIndex() + 32 * i;
    if (pair >= turned) continue;
    angles.cosine[i] = cosines[pair];
    angles.sine[i] = sines[pair];
  }
  return angles;
}

FLRC_DEVICE float addSquares(Float2 pair, float sum) {
  return fusedMultiplyAdd(pair.y, pair.y, fusedMultiplyAdd(pair.x, pair.x, sum));
}

FLRC_DEVICE void turnPairs(HeadPart& part, const Angles& angles) {
  FLRC_UNROLL
  for (int i = 0; i < HeadPart::kPairs; ++i) {
    const Float2 c = angles.cosine[i], s = angles.sine[i], a = part.low[i], b = part.high[i];
    part.low[i] = {fusedMultiplyAdd(a.x, c.x, -(b.x * s.x)), fusedMultiplyAdd(a.y, c.y, -(b.y * s.y))};
    part.high[i] = {fusedMultiplyAdd(b.x, c.x, a.x * s.x), fusedMultiplyAdd(b.y, c.y, a.y * s.y)};
  }
}

// 1 / sqrt(mean(head^2) + eps)
FLRC_DEVICE float inverseHeadNorm(const HeadPart& part, int headDim, float eps) {
  float squares = 0;
  FLRC_UNROLL
  for (int i = 0; i < HeadPart::kPairs; ++i)
    squares = addSquares(part.high[i], addSquares(part.low[i], squares));
  return 1.0f / sqrtf(warpSum(squares) / static_cast<float>(headDim) + eps);
}

// The head over the root of its mean square, times `norm`, where there is one; then turned.
template <typename Params>
FLRC_DEVICE void turnHead(HeadPart& part, const Params& p, Global<const float> norm, const Angles& angles) {
  if (norm != nullptr) {
    const HeadPart weight = loadHead(norm, {p.headDim, p.pairs});
    const float scale = inverseHeadNorm(part, p.headDim, p.eps);
    FLRC_UNROLL
    for (int i = 0; i < HeadPart::kPairs; ++i) {
      part.low[i] = {part.low[i].x * scale * weight.low[i].x, part.low[i].y * scale * weight.low[i].y};
      part.high[i] = {part.high[i].x * scale * weight.high[i].x, part.high[i].y * scale * weight.high[i].y};
    }
  }
  turnPairs(part, angles);
}

// Where a position's key (or value) of a head lies in its row's cache.
FLRC_DEVICE int64_t cacheOffset(const RotateParams& p, const CacheRow& row, int position, int kvHead) {
  return p.layer * row.layerStride + (static_cast<int64_t>(position) * p.kvHeads + kvHead) * p.headDim;
}

}  // namespace flrc::gpu
