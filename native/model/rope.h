#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace flrc {

// cos and sin of every (position, pair), scaled by the config's attention factor. [positions, pairs]
struct RopeTable {
  int64_t headDim = 0, pairs = 0;
  std::vector<float> cosine, sine;

  // Extends the table to `positions`.
  void grow(const ModelConfig& config, int64_t positions);

  // Rotates pairs (i, i + pairs) of `heads` heads of one token at `position`, in place. The transpose (for
  // gradients) turns the other way.
  void rotate(float* x, int64_t heads, int64_t position, bool transpose = false) const;
};

}  // namespace flrc
