#pragma once

#include <optional>
#include <vector>

#include "tensor/matrix.h"
#include "tensor/source.h"

namespace flrc {

// A matrix as files hold it (design 5): one tensor, or weights of 8 or 4 bits with their scales and zeros. Its
// rows become those of a RowMatrix, or the ranks of a PanelMatrix, of any dtype. Thread-safe but for what is
// filled.
class StoredMatrix {
 public:
  explicit StoredMatrix(TensorReader plain);
  // data [rows, cols] int8 or, where there is a zero, [rows, ceil(cols / 2)] int4; scale and zero [rows,
  // groups]. E_MODEL_FORMAT for tensors of other types.
  StoredMatrix(TensorReader data, TensorReader scale, std::optional<TensorReader> zero, int64_t cols);

  // Memory to work in, for one call at a time.
  struct Scratch {
    StoredRow stored;
    std::vector<float> wide;
  };
  // Rows [begin, end) into those of `to`; E_NUMERIC for a weight that is not finite.
  void fill(RowMatrix& to, int64_t begin, int64_t end, Scratch& scratch) const;
  void fill(PanelMatrix& to, int64_t begin, int64_t end, Scratch& scratch) const;

 private:
  // Calls load(first, count, stored rows) where they are of `dtype`, and set(first, count, floats) where not.
  template <typename Load, typename Set>
  void eachPart(Dtype dtype, int64_t begin, int64_t end, Scratch& scratch, const Load& load,
                const Set& set) const;
  void readStored(int64_t first, int64_t count, StoredRow& out) const;
  void readWide(int64_t first, int64_t count, Scratch& scratch) const;

  TensorReader data_;
  std::optional<TensorReader> scale_, zero_;
  int64_t cols_;
  std::optional<Dtype> dtype_;  // whose stored form the file's bytes are
};

}  // namespace flrc
