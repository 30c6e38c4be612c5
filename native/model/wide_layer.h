#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/job.h"
#include "model/model.h"
#include "model/wide_matrix.h"

namespace flrc {

// One projection's weights for passes over whole sequences, where widening once per layer is cheap.
struct WideLinear {
  const Linear* linear = nullptr;
  WideMatrix dense;  // [m, n]
  struct Block {
    WideMatrix p;      // [s, n]
    WideMatrix c;      // [s, m - s] pivoted, [s, m] plain
    int64_t rank = 0;  // s
    const FactorBlock* stored = nullptr;
  };
  std::vector<Block> blocks;

  int64_t rank() const;  // of all blocks together

  // On the calling thread. `latent` is left with t = P x, or its gradient, of each block: one block after
  // another, each [tokens, s].
  // y[tokens, m] = x[tokens, n] W^T (+ bias).
  void apply(const float* x, int64_t tokens, float* y, std::vector<float>& latent) const;
  // dx[tokens, n] = g[tokens, m] W.
  void passBack(const float* g, int64_t tokens, float* dx, std::vector<float>& latent) const;
};

// A layer's weights at one level.
struct WideLayer {
  std::array<WideLinear, kProjections> projections;
  const Layer* layer = nullptr;
  int64_t window = 0;
  int32_t rope = -1;  // which of the config's rotations
};

// As f32.
WideLayer widen(const Model& model, int64_t layer, int64_t level);
// The same layer with all its weights rounded, spread over the pool.
WideLayer roundedToBf16(const WideLayer& layer, int threads);
// [rows, cols] as f32, spread over the pool.
std::vector<float> widenRows(const RowMatrix& matrix, int threads);
// The matrix in another type, spread over the pool; itself where it has that type already.
std::shared_ptr<const RowMatrix> converted(const std::shared_ptr<const RowMatrix>& from, Dtype dtype,
                                           int threads);

}  // namespace flrc
