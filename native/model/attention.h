#pragma once

#include <cstdint>

namespace flrc {

// Scores q . k [rows, keys] of queries at positions firstQuery.. and keys at positions firstKey.. become
// attention weights in place: softmax of the scaled scores that a query may see, zeros elsewhere.
void attentionSoftmax(float* scores, int64_t rows, int64_t keys, int64_t firstQuery, int64_t firstKey,
                      int64_t window, int64_t headDim);

}  // namespace flrc
