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

// Two values to two bf16 each, whose sum they are to 2^-18 of it.
FLRC_DEVICE void splitPair(float first, float second, uint32_t& high, uint32_t& low) {
  high = roundHalves(first, second);
  low = roundHalves(first - bitsToFloat(high << 16), second - bitsToFloat(high & 0xffff0000u));
}

// A row of a matrix of rows of `width` weights (kernels/layout.h).
template <Dtype kType>
class WeightRow {
 public:
  FLRC_DEVICE WeightRow(Global<const uint8_t> matrix, int64_t row, int width)
      : head_(matrix + row * rowStrips(kType, width) * kStripBytes),
        headBytes_(static_cast<int>(headStrips(kType, width)) * kStripBytes) {}

  // The strips behind the head.
  FLRC_DEVICE Global<const uint8_t> weights() const { return head_ + headBytes_; }
  FLRC_DEVICE float scale(int column) const {
    return widen(pointerCast<const uint16_t>(head_ + stripOf(column))[column / kUnit % kGroups]);
  }
  FLRC_DEVICE int zero(int column) const {
    return head_[stripOf(column) + kGroups * 2 + column / kUnit % kGroups];
  }
  FLRC_DEVICE float weight(int column) const {
    const int64_t at = placeOf(kType, column);
    if constexpr (kType == Dtype::bf16) {
      return widen(pointerCast<const uint16_t>(weights())[at]);
    } else if constexpr (kType == Dtype::int8) {
      return static_cast<float>(static_cast<int8_t>(weights()[at])) * scale(column);
    } else {
      const int value = weights()[at / 2] >> (at % 2 * 4) & 15;
      return static_cast<float>(value - zero(column)) * scale(column);
    }
  }

 private:
  static constexpr int kGroups = stripWeights(kType) / kUnit;
  static FLRC_DEVICE int stripOf(int column) { return column / stripWeights(kType) * scaleBytes(kType); }

  const Global<const uint8_t> head_;
  const int headBytes_;
};

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
