#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/device.h"
#include "model/linear.h"

namespace flrc {

// The seven projections of a layer, in the order used everywhere (scores, ranks, curves).
enum Projection : int { kQ = 0, kK, kV, kO, kGate, kUp, kDown, kProjections };

using Vector = std::shared_ptr<const std::vector<float>>;

struct Layer {
  Vector attentionNorm, mlpNorm;              // of their inputs [hidden]
  Vector attentionOutputNorm, mlpOutputNorm;  // of their outputs [hidden], with outputNorms only
  Vector queryNorm, keyNorm;                  // [headDim], with qkNorm only
  std::array<Linear, kProjections> projections;
};

// One loaded model. Immutable once built; sessions and tasks share it.
struct Model {
  ModelConfig config;
  Dtype dtype = Dtype::bf16;
  int threads = 1;
  std::shared_ptr<const RowMatrix> embedding;  // [vocab, hidden]
  std::shared_ptr<const RowMatrix> head;       // [vocab, hidden]; the embedding itself when tied
  Vector finalNorm;                            // [hidden]
  Vector headNorm;  // finalNorm times logitScale, which makes the head's products logits [hidden]
  std::vector<Layer> layers;
  // Ranks per level, level 0 first, over all projections layer by layer; -1 is dense. A dense model has
  // one level of -1.
  std::vector<std::vector<int32_t>> levels;
  DeviceSlot device;

  int64_t projectionCount() const { return config.layers * kProjections; }
  const Linear& projection(int64_t index) const {
    return layers[static_cast<size_t>(index / kProjections)].projections[index % kProjections];
  }
  int64_t rank(int64_t level, int64_t layer, int projection) const {
    return levels[static_cast<size_t>(level)][static_cast<size_t>(layer * kProjections + projection)];
  }
  // E_INTERNAL unless the level exists; unless every token is in the vocabulary.
  void checkLevel(int64_t level) const;
  void checkTokens(const int32_t* tokens, int64_t count) const;
  // out [count, hidden], scaled as the config says
  void embed(const int32_t* tokens, int64_t count, float* out) const;
  size_t bytes() const;
  int64_t levelParameters(int64_t level) const;
  // Weight bytes read for one generated token.
  size_t levelBytes(int64_t level) const;
};

struct Shape {
  int64_t rows, cols;
};

// The single description of every tensor of the family: names as on the Hugging Face hub, and shapes.
std::string projectionName(int64_t layer, int projection);  // without ".weight"
Shape projectionShape(const ModelConfig& config, int64_t layer, int projection);
// With all channels of the MLP: what no layer's is beyond.
Shape widestShape(const ModelConfig& config, int projection);
bool projectionHasBias(const ModelConfig& config, int projection);
std::string layerName(int64_t layer, const char* tensor);
inline constexpr const char* kEmbeddingName = "model.embed_tokens";
inline constexpr const char* kHeadName = "lm_head";
inline constexpr const char* kFinalNormName = "model.norm.weight";
inline constexpr const char* kAttentionNormName = "input_layernorm.weight";
inline constexpr const char* kAttentionOutputNormName = "post_attention_layernorm.weight";
inline constexpr const char* kMlpOutputNormName = "post_feedforward_layernorm.weight";
const char* mlpNormName(const ModelConfig& config);
inline constexpr const char* kQueryNormName = "self_attn.q_norm.weight";
inline constexpr const char* kKeyNormName = "self_attn.k_norm.weight";

// Embeddings and lm_head stay at 8 bits when the blocks go below.
inline Dtype embeddingDtype(Dtype dtype) { return dtype == Dtype::int4 ? Dtype::int8 : dtype; }

// E_MODEL_FORMAT unless sizes are positive, consistent and small enough that no product overflows.
void checkConfig(const ModelConfig& config);

}  // namespace flrc
