#pragma once

#include "runtime/split_rows.h"
#include "runtime/weights.h"

namespace flrc::gpu {

// Rows of a model's weights for products of halves: bf16 ones as they lie, others widened, exactly.
class WeightHalves {
 public:
  // Bytes of so many rows, beside the weights themselves.
  static double bytesOf(const RowWeights& of, int64_t rows);

  // `count` rows from `first` on.
  void load(Pieces& pieces, const RowWeights& of, int64_t first, int64_t count);

  const Halves& halves() const { return halves_; }

 private:
  Halves halves_{};
  Buffer<uint16_t> high_, low_;
};

}  // namespace flrc::gpu
