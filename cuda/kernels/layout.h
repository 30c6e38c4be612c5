#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "tensor/dtype.h"

// Of use on the host and on the device.
#ifdef __CUDACC__
#define FLRC_ANYWHERE __host__ __device__
#else
#define FLRC_ANYWHERE
#endif

namespace flrc::gpu {

// How weights lie on the device.
//
// Rows (dense weights, V, P): a RowMatrix's arrays as they are (tensor/matrix.h).
//
// Panels (U, C): a PanelMatrix repacked from panels of 64 outputs to units of one scale group, 32 outputs, so
// that what a block reads is one contiguous piece: half h of panel p becomes unit 2 p + h,
//   data [unit][rank][32], scale [unit][rank] bf16 bits, zero [unit][rank] uint8.
// Outputs are padded as they are in the PanelMatrix; a unit of padding alone is left out.
inline constexpr int kUnit = static_cast<int>(kGroup);

FLRC_ANYWHERE inline int64_t unitsOf(int64_t outputs) { return (outputs + kUnit - 1) / kUnit; }

// Bytes of 32 weights.
FLRC_ANYWHERE inline constexpr int64_t groupBytes(Dtype dtype) {
  return dtype == Dtype::f32    ? 4 * kGroup
         : dtype == Dtype::bf16 ? 2 * kGroup
         : dtype == Dtype::int8 ? kGroup
                                : kGroup / 2;
}

struct Units {
  std::vector<uint8_t> data, zero;
  std::vector<uint16_t> scale;
};

// From a PanelMatrix's arrays (scale and zero null where its dtype has none).
inline Units packUnits(Dtype dtype, int64_t outputs, int64_t rank, const void* data, const void* scale,
                       const void* zero) {
  constexpr int64_t kHalves = kPanel / kUnit;
  const auto row = static_cast<size_t>(groupBytes(dtype));
  const auto lines = static_cast<size_t>(unitsOf(outputs) * rank);
  Units units;
  units.data.resize(lines * row);
  if (scale != nullptr) units.scale.resize(lines);
  if (zero != nullptr) units.zero.resize(lines);
  for (size_t line = 0; line < lines; ++line) {
    const auto unit = static_cast<int64_t>(line) / rank, j = static_cast<int64_t>(line) % rank;
    const auto from = static_cast<size_t>((unit / kHalves * rank + j) * kHalves + unit % kHalves);
    std::memcpy(units.data.data() + line * row, static_cast<const uint8_t*>(data) + from * row, row);
    if (scale != nullptr) {
      std::memcpy(&units.scale[line], static_cast<const uint8_t*>(scale) + from * sizeof(uint16_t),
                  sizeof(uint16_t));
    }
    if (zero != nullptr) units.zero[line] = static_cast<const uint8_t*>(zero)[from];
  }
  return units;
}

}  // namespace flrc::gpu
