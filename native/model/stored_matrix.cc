#include "model/stored_matrix.h"

#include <algorithm>

namespace flrc {
namespace {

// As many as lie in one panel: few enough for caches to hold them on their way from the file to their place.
constexpr int64_t kRowsAtOnce = kPanel;

std::optional<Dtype> plainDtype(SourceType type) {
  if (type == SourceType::f32) return Dtype::f32;
  if (type == SourceType::bf16) return Dtype::bf16;
  return std::nullopt;
}

}  // namespace

StoredMatrix::StoredMatrix(TensorReader plain)
    : data_(std::move(plain)), cols_(data_.source().cols()), dtype_(plainDtype(data_.source().type)) {}

StoredMatrix::StoredMatrix(TensorReader data, TensorReader scale, std::optional<TensorReader> zero,
                           int64_t cols)
    : data_(std::move(data)),
      scale_(std::move(scale)),
      zero_(std::move(zero)),
      cols_(cols),
      dtype_(zero_ ? Dtype::int4 : Dtype::int8) {
  data_.expectType(zero_ ? SourceType::u8 : SourceType::i8);
  scale_->expectType(SourceType::bf16);
  if (zero_) zero_->expectType(SourceType::u8);
}

void StoredMatrix::fill(RowMatrix& to, int64_t begin, int64_t end, Scratch& scratch) const {
  eachPart(
      to.dtype, begin, end, scratch,
      [&](int64_t first, int64_t count, const StoredRow& rows) { loadRows(to, first, count, rows); },
      [&](int64_t first, int64_t count, const float* wide) { setRows(to, first, count, wide, cols_); });
}

void StoredMatrix::fill(PanelMatrix& to, int64_t begin, int64_t end, Scratch& scratch) const {
  eachPart(
      to.dtype, begin, end, scratch,
      [&](int64_t first, int64_t count, const StoredRow& rows) { loadRanks(to, first, count, rows); },
      [&](int64_t first, int64_t count, const float* wide) { setRanks(to, first, count, wide, cols_); });
}

template <typename Load, typename Set>
void StoredMatrix::eachPart(Dtype dtype, int64_t begin, int64_t end, Scratch& scratch, const Load& load,
                            const Set& set) const {
  for (int64_t first = begin; first < end; first += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, end - first);
    if (dtype_ == dtype) {
      readStored(first, count, scratch.stored);
      load(first, count, scratch.stored);
    } else {
      readWide(first, count, scratch);
      set(first, count, scratch.wide.data());
    }
  }
}

void StoredMatrix::readStored(int64_t first, int64_t count, StoredRow& out) const {
  if (!scale_) {
    data_.readStored(first, count, out.data);
    return;
  }
  data_.readBytes(first, count, out.data);
  scale_->readBytes(first, count, out.scale);
  if (zero_) zero_->readBytes(first, count, out.zero);
}

void StoredMatrix::readWide(int64_t first, int64_t count, Scratch& scratch) const {
  scratch.wide.resize(static_cast<size_t>(count * cols_));
  float* out = scratch.wide.data();
  if (!scale_) {
    data_.readRows(first, count, out, scratch.stored.data);
    return;
  }
  readStored(first, count, scratch.stored);
  RowMatrix narrow = allocateRows(count, cols_, *dtype_);
  loadRows(narrow, 0, count, scratch.stored);
  for (int64_t row = 0; row < count; ++row) getRow(narrow, row, out + row * cols_);
}

}  // namespace flrc
