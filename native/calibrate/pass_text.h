#pragma once

#include <cstdint>
#include <vector>

#include "model/head_pass.h"

namespace flrc {

// The text that is passed through a model, and what its losses are taken against.
struct PassText {
  std::vector<int32_t> tokens;   // all sequences, one after another
  std::vector<int32_t> lengths;  // tokens in each, at least 2
  Labels labels = Labels::model;
  uint64_t seed = 0;
};

}  // namespace flrc
