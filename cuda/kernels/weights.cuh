#pragma once

#include "kernels/device.cuh"
#include "kernels/layout.h"

namespace flrc::gpu {

FLRC_DEVICE float widen(uint16_t bits) { return bitsToFloat(static_cast<uint32_t>(bits) << 16); }

// To bf16 bits, to nearest even; NaN stays NaN.
FLRC_DEVICE uint16_t narrow(float value) {
  const uint32_t bits = floatToBits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The two bf16 of a word.
FLRC_DEVICE void widenPair(uint32_t word, float* out) {
  out[0] = bitsToFloat(word << 16);
  out[1] = bitsToFloat(word & 0xffff0000u);
}

// A weight of a matrix of rows, `strips` each (kernels/layout.h).
template <Dtype kType>
FLRC_DEVICE float weightAt(Global<const uint8_t> data, Global<const uint16_t> scale, Global<const uint8_t> zero,
                           int64_t row, int strips, int64_t column) {
  constexpr int kWeights = stripWeights(kType);
  const int64_t first = row * strips * kWeights, at = first + placeOf(kType, column);
  if constexpr (kType == Dtype::bf16) {
    return widen(pointerCast<const uint16_t>(data)[at]);
  } else {
    const int64_t group = (first + column) / kUnit;
    if constexpr (kType == Dtype::int8) {
      return static_cast<float>(static_cast<int8_t>(data[at])) * widen(scale[group]);
    } else {
      const int value = data[at / 2] >> (at % 2 * 4) & 15;
      return static_cast<float>(value - zero[group]) * widen(scale[group]);
    }
  }
}

// Two bf16 of 128: a whole number below 128 in the low bits of one is that number more.
inline constexpr uint32_t kHalves128 = 0x43004300u;

// Eight weights of a group as pairs of bf16, before scaling; exact. `zeros`, for int4, are pairs of 128 and the
// weight's zero.
template <Dtype kType>
FLRC_DEVICE void weightPairs(const uint32_t (&strip)[4], int group, const uint32_t (&zeros)[4],
                             uint32_t (&pairs)[4]) {
  if constexpr (kType == Dtype::bf16) {
    FLRC_UNROLL
    for (int i = 0; i < 4; ++i) pairs[i] = strip[i];
  } else if constexpr (kType == Dtype::int8) {
    // 2^23 and a byte in the low bits of a float are exact, and so are the difference and its upper half.
    FLRC_UNROLL
    for (int i = 0; i < 4; ++i) {
      const uint32_t biased = (strip[2 * group + i / 2] ^ 0x80808080u) >> i % 2 * 16;
      const float low = bitsToFloat(0x4b000000u | (biased & 0xffu)) - 8388736.0f,
                  high = bitsToFloat(0x4b000000u | (biased >> 8 & 0xffu)) - 8388736.0f;
      pairs[i] = floatToBits(low) >> 16 | (floatToBits(high) & 0xffff0000u);
    }
  } else {
    FLRC_UNROLL
    for (int i = 0; i < 4; ++i) {
      pairs[i] = subtractHalves(kHalves128 | (strip[group] >> 4 * i & 0x000f000fu), zeros[i]);
    }
  }
}

}  // namespace flrc::gpu
