#pragma once

#include <vector>

#include "runtime/weights.h"

namespace flrc::gpu {

// A projection of a launch: its weights, the level's rank (ignored when dense) and where its results go.
struct PlannedLinear {
  const LinearWeights* weights;
  int64_t rank;
  Global<float> y;  // [columns, outputs]
};

// Working memory of a launch in floats a column.
struct Widths {
  int64_t t = 0, u = 0;
};
Widths widthsOf(const std::vector<PlannedLinear>& linears);

// The launch of up to kMaxProjections projections of one input, but for `columns`, x and the working memory.
LinearsParams planLinears(const std::vector<PlannedLinear>& linears);

// A plain matrix, such as lm_head, as a launch of its own.
LinearsParams planRows(const RowWeights& rows, Global<float> y);

}  // namespace flrc::gpu
