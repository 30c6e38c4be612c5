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
FLRC_DEVICE uint32_t narrowPair(float low, float high) {
  return static_cast<uint32_t>(narrow(low)) | static_cast<uint32_t>(narrow(high)) << 16;
}

// 2^23: a small whole number in the low bits of this float's mantissa is that number more, with no conversion,
// of which a multiprocessor does few.
inline constexpr uint32_t kWholeBits = 0x4b000000u;
inline constexpr float kWhole = 8388608.0f;

// What turns stored weights of one group into numbers: value = (stored - offset) * scale.
struct Grid {
  float scale = 1, offset = 0;
};

template <Dtype kType, typename Scale, typename Zero>
FLRC_DEVICE Grid gridAt(Scale scale, Zero zero, int64_t group) {
  Grid grid;
  if constexpr (kType == Dtype::int8) {
    grid.scale = widen(scale[group]);
    grid.offset = kWhole + 128;
  }
  if constexpr (kType == Dtype::int4) {
    grid.scale = widen(scale[group]);
    grid.offset = kWhole + static_cast<float>(zero[group]);
  }
  return grid;
}

// The weights of a word before scaling: exact in f32.
template <Dtype kType>
inline constexpr int kWordWeights = kType == Dtype::bf16   ? 2
                                    : kType == Dtype::int8 ? 4
                                                           : 8;

template <Dtype kType>
FLRC_DEVICE void unpack(uint32_t word, float offset, float* out) {
  if constexpr (kType == Dtype::bf16) {
    out[0] = bitsToFloat(word << 16);
    out[1] = bitsToFloat(word & 0xffff0000u);
  } else if constexpr (kType == Dtype::int8) {
    const uint32_t biased = word ^ 0x80808080u;
    FLRC_UNROLL
    for (int i = 0; i < 4; ++i) out[i] = bitsToFloat(kWholeBits | ((biased >> (8 * i)) & 0xffu)) - offset;
  } else {
    FLRC_UNROLL
    for (int i = 0; i < 8; ++i) out[i] = bitsToFloat(kWholeBits | ((word >> (4 * i)) & 0xfu)) - offset;
  }
}

}  // namespace flrc::gpu
