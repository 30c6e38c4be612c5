#include "model/attention.h"

#include <cmath>

#include "cpu/kernels.h"

namespace flrc {

void attentionSoftmax(float* scores, int64_t rows, int64_t keys, int64_t firstQuery, int64_t firstKey,
                      int64_t window, int64_t headDim) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(headDim));
  for (int64_t r = 0; r < rows; ++r) {
    float* row = scores + r * keys;
    const int64_t position = firstQuery + r;
    const int64_t from = cpu::firstVisible(position, window) - firstKey;
    const int64_t to = position + 1 - firstKey;
    std::fill(row, row + from, 0.0f);
    cpu::kernels().softmax(row + from, to - from, scale);
    std::fill(row + to, row + keys, 0.0f);
  }
}

}  // namespace flrc
