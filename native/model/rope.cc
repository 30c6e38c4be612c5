#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace flrc {

void RopeTable::grow(const ModelConfig& config, int64_t positions) {
  headDim_ = config.headDim;
  turns_.resize(config.ropes.size());
  for (size_t i = 0; i < turns_.size(); ++i) grow(config.ropes[i], positions, turns_[i]);
}

void RopeTable::grow(const Rope& rope, int64_t positions, Turns& turns) {
  const int64_t pairs = turns.pairs = std::ssize(rope.frequencies);
  // What both have: the second may have been refused its memory.
  const auto have = static_cast<int64_t>(std::min(turns.cosine.size(), turns.sine.size())) / pairs;
  if (positions <= have) return;
  turns.cosine.resize(static_cast<size_t>(positions * pairs));
  turns.sine.resize(static_cast<size_t>(positions * pairs));
  for (int64_t p = have; p < positions; ++p) {
    for (int64_t i = 0; i < pairs; ++i) {
      const double angle = static_cast<double>(p) * rope.frequencies[static_cast<size_t>(i)];
      turns.cosine[static_cast<size_t>(p * pairs + i)] = static_cast<float>(std::cos(angle) * rope.scale);
      turns.sine[static_cast<size_t>(p * pairs + i)] = static_cast<float>(std::sin(angle) * rope.scale);
    }
  }
}

void RopeTable::rotate(int32_t rope, float* x, int64_t heads, int64_t position, bool transpose) const {
  if (rope < 0) return;
  const Turns& turns = turns_[static_cast<size_t>(rope)];
  const int64_t pairs = turns.pairs;
  const float* c = turns.cosine.data() + position * pairs;
  const float* s = turns.sine.data() + position * pairs;
  const float turn = transpose ? -1.0f : 1.0f;
  for (int64_t h = 0; h < heads; ++h, x += headDim_) {
    for (int64_t i = 0; i < pairs; ++i) {
      const float a = x[i], b = x[i + pairs], sine = s[i] * turn;
      x[i] = a * c[i] - b * sine;
      x[i + pairs] = b * c[i] + a * sine;
    }
  }
}

}  // namespace flrc
