#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace flrc {

// What the passes need to know of a Llama-family model; filled from lib/format/types.ts ModelConfig.
struct ModelConfig {
  std::string architecture;
  int64_t layers = 0;
  int64_t hidden = 0;
  int64_t heads = 0;
  int64_t kvHeads = 0;
  int64_t headDim = 0;
  int64_t intermediate = 0;
  int64_t vocab = 0;
  int64_t context = 0;
  float eps = 0;
  bool tieEmbeddings = false;
  bool qkvBias = false;
  bool outputBias = false;
  bool mlpBias = false;
  bool qkNorm = false;
  std::vector<int32_t> slidingWindow;  // [layers], 0 is full attention
  // Of pairs (i, i + R), R = size() <= headDim / 2, radians per position; dimensions from 2R on stay as they are.
  std::vector<double> ropeFrequencies;
  float ropeScale = 1;  // on cos and sin

  int64_t queryWidth() const { return heads * headDim; }
  int64_t kvWidth() const { return kvHeads * headDim; }
};

}  // namespace flrc
