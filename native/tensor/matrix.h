#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "tensor/dtype.h"

namespace flrc {

// 64-byte aligned, zero-filled, freed with its owner, with 128 bytes that kernels may read behind its end;
// throws E_OUT_OF_MEMORY with the size asked for.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  uint8_t* data() { return aligned(); }
  const uint8_t* data() const { return aligned(); }
  size_t size() const { return size_; }

 private:
  static constexpr uintptr_t kAlignment = 64;
  struct Free {
    size_t mapped;  // bytes, 0 for memory of calloc
    void operator()(void* p) const;
  };

  uint8_t* aligned() const {
    return reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(memory_.get()) + kAlignment - 1) &
                                      ~(kAlignment - 1));
  }

  std::unique_ptr<void, Free> memory_;
  size_t size_ = 0;
};

// A matrix y[r] = sum_c w[r, c] x[c]. Rows are padded with zeros to a multiple of kGroup columns (`stride`), so
// kernels never meet half a group. A row's weights in order are
//   f32  float          bf16 uint16
//   int8 int8,          value = q * scale
//   int4 nibbles, low one first, value = (q - zero) * scale, q in 0..15
// with a scale (bf16 bits) and, int4 only, a zero (uint8) per group. Rows lie in panels of kPanel, the last
// with the rest, and in a panel those 4 bytes of all its rows that belong to the same columns lie together, so
// that kernels compute rows side by side and read one stream: [panel][word of a row][row of the panel]. scale
// and zero likewise: [panel][group of a row][row of the panel].
struct RowMatrix {
  Dtype dtype = Dtype::f32;
  int64_t rows = 0, cols = 0, stride = 0;
  Buffer data, scale, zero;

  size_t bytes() const { return data.size() + scale.size() + zero.size(); }
  // Words of 4 bytes in a row.
  int64_t rowWords() const;
};

// A matrix y[o] = sum_j w[j, o] t[j], j over ranks in order, in panels as those of a RowMatrix whose rows are
// the outputs and whose columns are the ranks: [panel][word of an output][output of the panel], padded with
// zeros to whole words. The first r ranks of a panel are contiguous, so a lower level reads a prefix. Scales
// and zeros belong to a rank and the kGroup outputs of a panel: [panel][rank].
struct PanelMatrix {
  Dtype dtype = Dtype::f32;
  int64_t outputs = 0, rank = 0;
  Buffer data, scale, zero;

  int64_t panels() const { return (outputs + kPanel - 1) / kPanel; }
  // Words of 4 bytes in an output.
  int64_t outputWords() const;
  size_t bytes() const { return data.size() + scale.size() + zero.size(); }
};

// From f32, row-major [rows, cols] with leading dimension ld. int8: symmetric, scale = max|w| / 127 of the
// group, rounded to bf16 before quantising; int4: asymmetric, min..max of the group on 0..15.
RowMatrix makeRows(const float* w, int64_t rows, int64_t cols, int64_t ld, Dtype dtype);
// Rows [first, first + count) of an allocated matrix, so that rows can be filled in parallel from a file.
RowMatrix allocateRows(int64_t rows, int64_t cols, Dtype dtype);
void setRows(RowMatrix& matrix, int64_t first, int64_t count, const float* w, int64_t ld);

// From f32 [rank, outputs] (rank-major, the layout on disk) with leading dimension ld. Ranks are set in order.
PanelMatrix makePanels(const float* w, int64_t rank, int64_t outputs, int64_t ld, Dtype dtype);
PanelMatrix allocatePanels(int64_t rank, int64_t outputs, Dtype dtype);
void setRanks(PanelMatrix& matrix, int64_t first, int64_t count, const float* w, int64_t ld);

// Back to f32: row `row` (cols values).
void getRow(const RowMatrix& matrix, int64_t row, float* out);
// Rank j of all outputs (outputs values).
void getRank(const PanelMatrix& matrix, int64_t rank, float* out);

// The storage on disk and back (design 5). A stored row is `cols` values in groups of kGroup (the last may
// be short): f32/bf16 as they are; int8 `q` [rows, cols]; int4 `q` [rows, ceil(cols / 2)] low nibble first;
// `scale` bf16 [rows, ceil(cols / kGroup)]; `zero` uint8 of the same shape.
// Both layouts write the same form: a PanelMatrix's stored rows are its ranks. A StoredRow to load from may
// hold several, one after another.
struct StoredRow {
  std::vector<uint8_t> data, scale, zero;
};
size_t storedRowBytes(Dtype dtype, int64_t cols);
void storeRow(const RowMatrix& matrix, int64_t row, StoredRow& out);
void storeRank(const PanelMatrix& matrix, int64_t rank, StoredRow& out);
void loadRows(RowMatrix& matrix, int64_t first, int64_t count, const StoredRow& stored);
void loadRanks(PanelMatrix& matrix, int64_t first, int64_t count, const StoredRow& stored);

}  // namespace flrc
