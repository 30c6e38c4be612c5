#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace flrc {

// The types weights are held in. Activations are always f32.
enum class Dtype : int32_t { f32 = 0, bf16 = 1, int8 = 2, int4 = 3 };
inline constexpr int kDtypes = 4;

inline bool hasScale(Dtype dtype) { return dtype == Dtype::int8 || dtype == Dtype::int4; }
inline bool hasZero(Dtype dtype) { return dtype == Dtype::int4; }

// Weights along a row that share one scale (int8, int4) and one zero point (int4).
inline constexpr int64_t kGroup = 32;
// Outputs in one panel of a matrix: as many as share a scale in a PanelMatrix.
inline constexpr int64_t kPanel = kGroup;

inline float bf16ToFloat(uint16_t bits) {
  uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// Round to nearest even; NaN stays NaN.
inline uint16_t floatToBf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  // Written so that compilers turn loops of it into vectors.
  const bool nan = static_cast<int32_t>(bits & 0x7fffffffu) > 0x7f800000;
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return static_cast<uint16_t>((nan ? bits | 0x400000u : rounded) >> 16);
}

inline constexpr float kLargestHalf = 65504;

// IEEE fp16, round to nearest even; what is larger becomes the largest, NaN stays NaN.
inline uint16_t floatToHalf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return sign | 0x7e00u;
  if (bits > 0x477fe000u) return sign | 0x7bffu;
  if (bits < 0x38800000u) {
    // Below 2^-14 values are multiples of 2^-24, which are the last bits of what lies from 0.5 on.
    float small;
    std::memcpy(&small, &bits, sizeof small);
    small += 0.5f;
    std::memcpy(&bits, &small, sizeof bits);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
  }
  bits += 0xfffu + ((bits >> 13) & 1u) - 0x38000000u;
  return static_cast<uint16_t>(sign | (bits >> 13));
}

}  // namespace flrc
