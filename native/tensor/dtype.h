#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace flrc {

// The types weights are held in. Activations are always f32.
enum class Dtype : int32_t { f32 = 0, bf16 = 1, int8 = 2, int4 = 3 };

// Weights along a row that share one scale (int8, int4) and one zero point (int4).
inline constexpr int64_t kGroup = 32;
// Outputs in one panel of a PanelMatrix.
inline constexpr int64_t kPanel = 64;

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
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace flrc
