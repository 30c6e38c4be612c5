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

// How weights lie on the device: so that a warp reads one row, and a block of threads the ranks of a few
// outputs, as one contiguous piece.
//
// Rows (dense weights, V, P): a RowMatrix (tensor/matrix.h) row by row,
//   data [row][stride], scale [row][stride / 32] bf16 bits, zero [row][stride / 32] uint8.
//
// Panels (U, C): a PanelMatrix rank by rank in units of one scale group, 32 outputs, which are its panels,
//   data [unit][rank][32], scale [unit][rank] bf16 bits, zero [unit][rank] uint8,
// the last one padded with zeros.
//
// Weights of a row or of a rank in a unit lie in order, int4 the low nibble first.
inline constexpr int kUnit = static_cast<int>(kGroup);

FLRC_ANYWHERE inline int64_t unitsOf(int64_t outputs) { return (outputs + kUnit - 1) / kUnit; }

// Bytes of 32 weights.
FLRC_ANYWHERE inline constexpr int64_t groupBytes(Dtype dtype) {
  return dtype == Dtype::f32    ? 4 * kGroup
         : dtype == Dtype::bf16 ? 2 * kGroup
         : dtype == Dtype::int8 ? kGroup
                                : kGroup / 2;
}

// A matrix's arrays as they lie on the device; scale and zero are empty where its dtype has none.
struct Packed {
  std::vector<uint8_t> data, zero;
  std::vector<uint16_t> scale;
};

namespace packing {

// Items of kBytes bytes, [panel][item of a row][row of the panel], row by row.
template <size_t kBytes>
void rowByRow(const void* from, int64_t rows, int64_t items, void* to) {
  const auto* at = static_cast<const uint8_t*>(from);
  for (int64_t first = 0; first < rows; first += kPanel) {
    const int64_t end = std::min(rows, first + kPanel);
    for (int64_t item = 0; item < items; ++item) {
      for (int64_t row = first; row < end; ++row, at += kBytes) {
        std::memcpy(static_cast<uint8_t*>(to) + static_cast<size_t>(row * items + item) * kBytes, at, kBytes);
      }
    }
  }
}

// Words of kBits-bit weights, [panel][word of an output][output of the panel], rank by rank in units.
template <int kBits>
void rankByRank(const void* from, int64_t outputs, int64_t rank, uint8_t* to) {
  constexpr int64_t kWordRanks = 32 / kBits, kLine = kUnit * kBits / 8;
  const auto* at = static_cast<const uint8_t*>(from);
  for (int64_t first = 0; first < outputs; first += kUnit, to += rank * kLine) {
    const int64_t width = std::min<int64_t>(kUnit, outputs - first);
    for (int64_t begin = 0; begin < rank; begin += kWordRanks) {
      const int64_t end = std::min(rank, begin + kWordRanks);
      for (int64_t i = 0; i < width; ++i, at += sizeof(uint32_t)) {
        uint32_t word;
        std::memcpy(&word, at, sizeof word);
        for (int64_t j = begin; j < end; ++j, word >>= kBits % 32) {
          uint8_t* weight = to + j * kLine + i * kBits / 8;
          if constexpr (kBits == 4) {
            *weight |= static_cast<uint8_t>((word & 15) << 4 * (i % 2));
          } else {
            std::memcpy(weight, &word, kBits / 8);
          }
        }
      }
    }
  }
}

}  // namespace packing

// From a RowMatrix's arrays.
inline Packed packRows(Dtype dtype, int64_t rows, int64_t stride, const void* data, const void* scale,
                       const void* zero) {
  const int64_t groups = stride / kGroup, rowBytes = groups * groupBytes(dtype);
  Packed packed;
  packed.data.resize(static_cast<size_t>(rows * rowBytes));
  packing::rowByRow<4>(data, rows, rowBytes / 4, packed.data.data());
  if (hasScale(dtype)) {
    packed.scale.resize(static_cast<size_t>(rows * groups));
    packing::rowByRow<2>(scale, rows, groups, packed.scale.data());
  }
  if (hasZero(dtype)) {
    packed.zero.resize(static_cast<size_t>(rows * groups));
    packing::rowByRow<1>(zero, rows, groups, packed.zero.data());
  }
  return packed;
}

// From a PanelMatrix's arrays.
inline Packed packUnits(Dtype dtype, int64_t outputs, int64_t rank, const void* data, const void* scale,
                        const void* zero) {
  static_assert(kUnit == kPanel);
  const auto lines = static_cast<size_t>(unitsOf(outputs) * rank);
  Packed packed;
  packed.data.resize(lines * static_cast<size_t>(groupBytes(dtype)));
  switch (dtype) {
    case Dtype::f32:
      packing::rankByRank<32>(data, outputs, rank, packed.data.data());
      break;
    case Dtype::bf16:
      packing::rankByRank<16>(data, outputs, rank, packed.data.data());
      break;
    case Dtype::int8:
      packing::rankByRank<8>(data, outputs, rank, packed.data.data());
      break;
    case Dtype::int4:
      packing::rankByRank<4>(data, outputs, rank, packed.data.data());
      break;
  }
  // Scales lie rank by rank already.
  if (hasScale(dtype)) {
    const auto* scales = static_cast<const uint16_t*>(scale);
    packed.scale.assign(scales, scales + lines);
  }
  if (hasZero(dtype)) {
    const auto* zeros = static_cast<const uint8_t*>(zero);
    packed.zero.assign(zeros, zeros + lines);
  }
  return packed;
}

}  // namespace flrc::gpu
