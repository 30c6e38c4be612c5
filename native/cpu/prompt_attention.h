#pragma once

#include <cstdint>
#include <vector>

#include "cpu/prompt_inputs.h"

namespace flrc::cpu {

// Queries of a prompt at positions [first, first + count), of `heads` heads that share a key/value head. A row
// is a head's query: row i is head i / count at position first + i % count.
struct PromptQueries {
  int64_t first = 0, count = 0, heads = 0;
  int64_t window = 0;  // that a query sees, itself included; 0: all before it

  int64_t rows() const { return heads * count; }
  int64_t position(int64_t row) const { return first + row % count; }
  int64_t end() const { return first + count; }
  // Where a row's values begin in [count][width], from the first of the heads on.
  int64_t place(int64_t row, int64_t width, int64_t headDim) const {
    return row % count * width + row / count * headDim;
  }
};

// Positions whose keys and values are at hand at a time. The first of them is a multiple of it, whatever the
// queries: a query's result does not depend on who its neighbours are.
inline constexpr int64_t kAttentionKeys = 256;

// What attention of a prompt works in.
struct PromptAttention {
  PromptInputs queries;            // the rows, headDim values each
  std::vector<uint32_t> keys;      // [panel of positions][pair of a head's values][kPanel positions]
  std::vector<uint32_t> values;    // [panel of a head's values][pair of positions][kPanel values]
  std::vector<float> scores;       // of a tile of rows: [row][kAttentionKeys]
  std::vector<uint32_t> weights;   // of the same, as PromptInputs has a tile: [block of words][row][word]
  std::vector<float> sums;         // weights times values so far: [row][headDim]
  std::vector<float> most, total;  // of each row: its largest score so far, and the sum of its weights
};

// Makes room for `rows` rows, and nothing of what was there is left.
void resize(PromptAttention& work, int64_t rows, int64_t headDim);

}  // namespace flrc::cpu
