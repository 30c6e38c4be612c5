#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/activation.h"

namespace flrc {

// A rotation of heads: pairs (i, i + R), R = frequencies.size() <= headDim / 2; dimensions from 2R on stay as
// they are.
struct Rope {
  std::vector<double> frequencies;  // radians per position
  float scale = 1;                  // on cos and sin
};

// What the passes need to know of a Llama-family model; filled from lib/format/types.ts ModelConfig.
struct ModelConfig {
  std::string architecture;
  int64_t layers = 0;
  int64_t hidden = 0;
  int64_t heads = 0;
  int64_t kvHeads = 0;
  int64_t headDim = 0;
  int64_t intermediate = 0;            // channels of an MLP none of which was dropped
  std::vector<int64_t> intermediates;  // [layers], channels that each layer's has
  int64_t vocab = 0;
  int64_t context = 0;
  float eps = 0;
  bool tieEmbeddings = false;
  bool qkvBias = false;
  bool outputBias = false;
  bool mlpBias = false;
  bool qkNorm = false;
  std::vector<int32_t> slidingWindow;  // [layers], 0 is full attention
  std::vector<Rope> ropes;
  std::vector<int32_t> layerRope;  // [layers], which of them turns a layer's heads; -1 for none
  Activation activation = Activation::silu;
  // Norms over what attention and the MLP put out, before it joins the hidden states.
  bool outputNorms = false;
  float normOffset = 0;      // what a norm multiplies by beyond the weights that are stored
  float embeddingScale = 1;  // on embeddings
  float queryScale = 1;      // on queries, whose scores are divided by sqrt(headDim) besides
  float residualScale = 1;   // on what attention and the MLP add to the hidden states
  float logitScale = 1;      // on logits

  int64_t queryWidth() const { return heads * headDim; }
  int64_t kvWidth() const { return kvHeads * headDim; }
};

}  // namespace flrc
