#pragma once

#include <algorithm>
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

// How weights lie on the device. A line is what one output is made of: a row of a dense projection or of V or P
// along the inputs, an output of U or C along the ranks. A line has whole strips of 64 bytes, the last padded
// with zeros, and a lower level reads the first strips of each line. bf16 weights lie in order. In a strip of
// int8 (64 weights, two groups) or int4 (128, four groups) each of four lanes has 16 bytes: eight neighbouring
// weights of every group, so that four lanes have a group together, as matrix fragments want it. int4: the even
// ones of eight in the low half of a word, the odd ones in the high half.
//
// Rows have a scale (bf16 bits) and, int4, a zero for every group of a strip: [row][strip][group of it]. Panels
// have them by output unit and rank, [unit of 32 outputs][rank].
inline constexpr int kUnit = static_cast<int>(kGroup);
inline constexpr int kStripBytes = 64;

FLRC_ANYWHERE inline int64_t unitsOf(int64_t outputs) { return (outputs + kUnit - 1) / kUnit; }

// Bytes of 32 weights.
FLRC_ANYWHERE inline constexpr int64_t groupBytes(Dtype dtype) {
  return dtype == Dtype::f32    ? 4 * kGroup
         : dtype == Dtype::bf16 ? 2 * kGroup
         : dtype == Dtype::int8 ? kGroup
                                : kGroup / 2;
}

FLRC_ANYWHERE inline constexpr int stripWeights(Dtype dtype) {
  return static_cast<int>(kStripBytes * kGroup / groupBytes(dtype));
}
FLRC_ANYWHERE inline constexpr int64_t stripsOf(Dtype dtype, int64_t weights) {
  return (weights + stripWeights(dtype) - 1) / stripWeights(dtype);
}

// Where weight k of a line lies, counted in weights from the line's first.
FLRC_ANYWHERE inline constexpr int64_t placeOf(Dtype dtype, int64_t k) {
  const int64_t weights = stripWeights(dtype), inStrip = k % weights, inGroup = inStrip % kGroup;
  const int64_t i = inGroup % 8, ordered = dtype == Dtype::int4 ? i / 2 + i % 2 * 4 : i;
  return k - inStrip + inGroup / 8 * (weights / 4) + inStrip / kGroup * 8 + ordered;
}

// A matrix's arrays as they lie on the device; scale and zero are empty where its dtype has none.
struct Packed {
  std::vector<uint8_t> data, zero;
  std::vector<uint16_t> scale;
};

namespace packing {

// The weights of a word that holds eight int4 weights in order.
inline uint32_t evenThenOdd(uint32_t word) {
  uint32_t ordered = 0;
  for (int i = 0; i < 8; ++i) ordered |= (word >> 4 * i & 15) << 4 * (i / 2 + i % 2 * 4);
  return ordered;
}

// From words of 4 bytes, [panel][word of a line][line of the panel].
inline std::vector<uint8_t> lines(Dtype dtype, int64_t count, int64_t weights, const void* from) {
  const int64_t wordWeights = 4 * kGroup / groupBytes(dtype), words = (weights + wordWeights - 1) / wordWeights;
  const int64_t lineBytes = stripsOf(dtype, weights) * kStripBytes;
  std::vector<uint8_t> to(static_cast<size_t>(count * lineBytes));
  const auto* at = static_cast<const uint8_t*>(from);
  for (int64_t first = 0; first < count; first += kPanel) {
    const int64_t end = std::min(count, first + kPanel);
    for (int64_t w = 0; w < words; ++w) {
      const int64_t place = placeOf(dtype, w * wordWeights) * 4 / wordWeights;
      for (int64_t line = first; line < end; ++line, at += sizeof(uint32_t)) {
        uint32_t word;
        std::memcpy(&word, at, sizeof word);
        if (dtype == Dtype::int4) word = evenThenOdd(word);
        std::memcpy(to.data() + line * lineBytes + place, &word, sizeof word);
      }
    }
  }
  return to;
}

// A value for each group of a row, [panel][group][row of the panel], to [row][group], each row padded.
template <typename T>
std::vector<T> groups(int64_t rows, int64_t count, int64_t padded, const void* from) {
  std::vector<T> to(static_cast<size_t>(rows * padded));
  const auto* at = static_cast<const T*>(from);
  for (int64_t first = 0; first < rows; first += kPanel) {
    const int64_t end = std::min(rows, first + kPanel);
    for (int64_t g = 0; g < count; ++g) {
      for (int64_t row = first; row < end; ++row) to[static_cast<size_t>(row * padded + g)] = *at++;
    }
  }
  return to;
}

}  // namespace packing

// From a RowMatrix's arrays.
inline Packed packRows(Dtype dtype, int64_t rows, int64_t stride, const void* data, const void* scale,
                       const void* zero) {
  const int64_t groups = stride / kGroup,
                padded = stripsOf(dtype, stride) * stripWeights(dtype) / static_cast<int64_t>(kGroup);
  Packed packed;
  packed.data = packing::lines(dtype, rows, stride, data);
  if (hasScale(dtype)) packed.scale = packing::groups<uint16_t>(rows, groups, padded, scale);
  if (hasZero(dtype)) packed.zero = packing::groups<uint8_t>(rows, groups, padded, zero);
  return packed;
}

// From a PanelMatrix's arrays.
inline Packed packPanels(Dtype dtype, int64_t outputs, int64_t rank, const void* data, const void* scale,
                         const void* zero) {
  static_assert(kUnit == kPanel);
  const auto scales = static_cast<size_t>(unitsOf(outputs) * rank);
  Packed packed;
  packed.data = packing::lines(dtype, outputs, rank, data);
  if (hasScale(dtype)) {
    const auto* from = static_cast<const uint16_t*>(scale);
    packed.scale.assign(from, from + scales);
  }
  if (hasZero(dtype)) {
    const auto* from = static_cast<const uint8_t*>(zero);
    packed.zero.assign(from, from + scales);
  }
  return packed;
}

}  // namespace flrc::gpu
