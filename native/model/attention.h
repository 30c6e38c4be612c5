#pragma once

#include <algorithm>
#include <cstdint>

namespace flrc {

// The first position that a query at `position` sees; window 0 is full attention.
inline int64_t firstVisible(int64_t position, int64_t window) {
  return window > 0 ? std::max<int64_t>(0, position - window + 1) : 0;
}

// Scores q . k [rows, keys] of queries at positions firstQuery.. and keys at positions firstKey.. become
// attention weights in place: softmax of the scaled scores that a query may see, zeros elsewhere.
void attentionSoftmax(float* scores, int64_t rows, int64_t keys, int64_t firstQuery, int64_t firstKey,
                      int64_t window, int64_t headDim);

}  // namespace flrc
