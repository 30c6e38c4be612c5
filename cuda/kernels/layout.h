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
// A row of int8 or int4 begins with what its weights are scaled by, padded to whole strips: for every strip the
// scales (bf16 bits) of its groups and, int4, their zeros. Panels have scales and zeros by output unit and
// rank, in arrays of their own: [unit of 32 outputs][rank, padded to a multiple of 8].
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

// Of what a strip of a row is scaled by; of four strips that is a multiple of 16.
FLRC_ANYWHERE inline constexpr int scaleBytes(Dtype dtype) {
  return dtype == Dtype::int8 ? 4 : dtype == Dtype::int4 ? 12 : 0;
}
// Strips that a row begins with, and all of its strips.
FLRC_ANYWHERE inline constexpr int64_t headStrips(Dtype dtype, int64_t weights) {
  return (stripsOf(dtype, weights) * scaleBytes(dtype) + kStripBytes - 1) / kStripBytes;
}
FLRC_ANYWHERE inline constexpr int64_t rowStrips(Dtype dtype, int64_t weights) {
  return headStrips(dtype, weights) + stripsOf(dtype, weights);
}
// So many values with what makes them whole octets, which are read in one piece.
FLRC_ANYWHERE inline constexpr int64_t wholeOctets(int64_t values) { return (values + 7) / 8 * 8; }
// Ranks from one unit's scales to the next one's.
FLRC_ANYWHERE inline constexpr int64_t scalesOf(int64_t rank) { return wholeOctets(rank); }

// Where weight k of a line lies, counted in weights from the line's first.
FLRC_ANYWHERE inline constexpr int64_t placeOf(Dtype dtype, int64_t k) {
  const int64_t weights = stripWeights(dtype), inStrip = k % weights, inGroup = inStrip % kGroup;
  const int64_t i = inGroup % 8, ordered = dtype == Dtype::int4 ? i / 2 + i % 2 * 4 : i;
  return k - inStrip + inGroup / 8 * (weights / 4) + inStrip / kGroup * 8 + ordered;
}

// A PanelMatrix's arrays as they lie on the device; scale and zero are empty where its dtype has none.
struct PackedPanels {
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

// From words of 4 bytes, [panel][word of a line][line of the panel]. Lines begin with `head` strips of zeros.
inline std::vector<uint8_t> lines(Dtype dtype, int64_t count, int64_t weights, int64_t head, const void* from) {
  const int64_t wordWeights = 4 * kGroup / groupBytes(dtype), words = (weights + wordWeights - 1) / wordWeights;
  const int64_t first = head * kStripBytes, lineBytes = first + stripsOf(dtype, weights) * kStripBytes;
  std::vector<uint8_t> to(static_cast<size_t>(count * lineBytes));
  const auto* at = static_cast<const uint8_t*>(from);
  for (int64_t panel = 0; panel < count; panel += kPanel) {
    const int64_t end = std::min(count, panel + kPanel);
    for (int64_t w = 0; w < words; ++w) {
      const int64_t place = first + placeOf(dtype, w * wordWeights) * 4 / wordWeights;
      for (int64_t line = panel; line < end; ++line, at += sizeof(uint32_t)) {
        uint32_t word;
        std::memcpy(&word, at, sizeof word);
        if (dtype == Dtype::int4) word = evenThenOdd(word);
        std::memcpy(to.data() + line * lineBytes + place, &word, sizeof word);
      }
    }
  }
  return to;
}

// A value of `bytes` for each group of a row, [panel][group][row of the panel], to the rows' heads, `place`
// bytes behind where what a strip is scaled by begins.
inline void heads(Dtype dtype, int64_t rows, int64_t weights, int64_t bytes, int64_t place, const void* from,
                  std::vector<uint8_t>& to) {
  const int64_t rowBytes = rowStrips(dtype, weights) * kStripBytes;
  const int64_t groups = stripWeights(dtype) / kUnit;
  const auto* at = static_cast<const uint8_t*>(from);
  for (int64_t panel = 0; panel < rows; panel += kPanel) {
    const int64_t end = std::min(rows, panel + kPanel);
    for (int64_t g = 0; g < weights / kGroup; ++g) {
      for (int64_t row = panel; row < end; ++row, at += bytes) {
        std::memcpy(to.data() + row * rowBytes + g / groups * scaleBytes(dtype) + place + g % groups * bytes,
                    at, static_cast<size_t>(bytes));
      }
    }
  }
}

// [unit][rank], each unit's padded.
template <typename T>
std::vector<T> units(int64_t count, int64_t rank, const void* from) {
  std::vector<T> to(static_cast<size_t>(count * scalesOf(rank)));
  for (int64_t unit = 0; unit < count; ++unit) {
    std::copy_n(static_cast<const T*>(from) + unit * rank, rank, to.begin() + unit * scalesOf(rank));
  }
  return to;
}

}  // namespace packing

// From a RowMatrix's arrays.
inline std::vector<uint8_t> packRows(Dtype dtype, int64_t rows, int64_t stride, const void* data,
                                     const void* scale, const void* zero) {
  std::vector<uint8_t> packed = packing::lines(dtype, rows, stride, headStrips(dtype, stride), data);
  const int64_t scales = static_cast<int64_t>(sizeof(uint16_t)) * stripWeights(dtype) / kUnit;
  if (hasScale(dtype)) packing::heads(dtype, rows, stride, sizeof(uint16_t), 0, scale, packed);
  if (hasZero(dtype)) packing::heads(dtype, rows, stride, 1, scales, zero, packed);
  return packed;
}

// From a PanelMatrix's arrays.
inline PackedPanels packPanels(Dtype dtype, int64_t outputs, int64_t rank, const void* data, const void* scale,
                               const void* zero) {
  static_assert(kUnit == kPanel);
  PackedPanels packed;
  packed.data = packing::lines(dtype, outputs, rank, 0, data);
  if (hasScale(dtype)) packed.scale = packing::units<uint16_t>(unitsOf(outputs), rank, scale);
  if (hasZero(dtype)) packed.zero = packing::units<uint8_t>(unitsOf(outputs), rank, zero);
  return packed;
}

}  // namespace flrc::gpu
