#include "model/rope.h"

#include <cmath>
#include <iterator>

namespace flrc {

void RopeTable::grow(const ModelConfig& config, int64_t positions) {
  headDim = config.headDim;
  pairs = std::ssize(config.ropeFrequencies);
  const auto have = static_cast<int64_t>(cosine.size()) / pairs;
  if (positions <= have) return;
  cosine.resize(static_cast<size_t>(positions * pairs));
  sine.resize(static_cast<size_t>(positions * pairs));
  for (int64_t p = have; p < positions; ++p) {
    for (int64_t i = 0; i < pairs; ++i) {
      const double angle = static_cast<double>(p) * config.ropeFrequencies[static_cast<size_t>(i)];
      cosine[static_cast<size_t>(p * pairs + i)] = static_cast<float>(std::cos(angle) * config.ropeScale);
      sine[static_cast<size_t>(p * pairs + i)] = static_cast<float>(std::sin(angle) * config.ropeScale);
    }
  }
}

void RopeTable::rotate(float* x, int64_t heads, int64_t position, bool transpose) const {
  const float* c = cosine.data() + position * pairs;
  const float* s = sine.data() + position * pairs;
  const float turn = transpose ? -1.0f : 1.0f;
  for (int64_t h = 0; h < heads; ++h, x += headDim) {
    for (int64_t i = 0; i < pairs; ++i) {
      const float a = x[i], b = x[i + pairs], sine_ = s[i] * turn;
      x[i] = a * c[i] - b * sine_;
      x[i + pairs] = b * c[i] + a * sine_;
    }
  }
}

}  // namespace flrc
