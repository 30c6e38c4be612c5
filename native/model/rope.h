#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace flrc {

// cos and sin of every (position, pair) of a config's rotations, scaled as they say.
class RopeTable {
 public:
  // Extends the tables to `positions`.
  void grow(const ModelConfig& config, int64_t positions);

  // Rotates `heads` heads of one token at `position` by one of the rotations, in place; by -1 not at all. The
  // transpose (for gradients) turns the other way.
  void rotate(int32_t rope, float* x, int64_t heads, int64_t position, bool transpose = false) const;

 private:
  struct Turns {
    int64_t pairs = 0;
    std::vector<float> cosine, sine;  // [positions, pairs]
  };
  static void grow(const Rope& rope, int64_t positions, Turns& turns);

  int64_t headDim_ = 0;
  std::vector<Turns> turns_;
};

}  // namespace flrc
