#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/job.h"
#include "model/model.h"

namespace flrc {

// One projection's weights as f32, for passes over whole sequences, where widening once per layer is cheap.
struct WideLinear {
  const Linear* linear = nullptr;
  std::vector<float> dense;  // [m, n]
  struct Block {
    std::vector<float> p;  // [s, n]
    std::vector<float> c;  // [s, m - s] pivoted, [s, m] plain
    int64_t rank = 0;
    const FactorBlock* stored = nullptr;
  };
  std::vector<Block> blocks;

  // y[tokens, m] = x[tokens, n] W^T (+ bias), on the calling thread.
  void apply(const float* x, int64_t tokens, float* y) const;
};

// A layer's weights as f32 at one level.
struct WideLayer {
  std::array<WideLinear, kProjections> projections;
  const Layer* layer = nullptr;
  int64_t window = 0;
};

WideLayer widen(const Model& model, int64_t layer, int64_t level);
// [rows, cols] as f32, spread over the pool.
std::vector<float> widenRows(const RowMatrix& matrix, int threads);

}  // namespace flrc
