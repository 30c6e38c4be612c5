#include "model/model.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "core/error.h"

namespace flrc {
namespace {

constexpr const char* kProjectionNames[kProjections] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",
};

void requireSize(int64_t value, int64_t most, const char* name) {
  if (value < 1 || value > most) {
    throw Error(code::modelFormat, std::string("config: ") + name + " is " + std::to_string(value) +
                                       ", expected 1 to " + std::to_string(most));
  }
}

void checkRope(const Rope& rope, int64_t headDim) {
  if (rope.frequencies.empty() || std::ssize(rope.frequencies) > headDim / 2) {
    throw Error(code::modelFormat, "config: rotary frequencies do not fit the head dimension");
  }
  if (!std::isfinite(rope.scale) ||
      !std::ranges::all_of(rope.frequencies, [](double f) { return std::isfinite(f); })) {
    throw Error(code::modelFormat, "config: a rotary frequency or scale is not finite");
  }
}

// `intermediate`: channels of the MLP.
Shape shapeOf(const ModelConfig& config, int64_t intermediate, int projection) {
  switch (projection) {
    case kQ:
      return {config.queryWidth(), config.hidden};
    case kK:
    case kV:
      return {config.kvWidth(), config.hidden};
    case kO:
      return {config.hidden, config.queryWidth()};
    case kGate:
    case kUp:
      return {intermediate, config.hidden};
    default:
      return {config.hidden, intermediate};
  }
}

}  // namespace

std::string layerName(int64_t layer, const char* tensor) {
  return "model.layers." + std::to_string(layer) + "." + tensor;
}

std::string projectionName(int64_t layer, int projection) {
  return layerName(layer, kProjectionNames[projection]);
}

Shape projectionShape(const ModelConfig& config, int64_t layer, int projection) {
  return shapeOf(config, config.intermediates[static_cast<size_t>(layer)], projection);
}

Shape widestShape(const ModelConfig& config, int projection) {
  return shapeOf(config, config.intermediate, projection);
}

bool projectionHasBias(const ModelConfig& config, int projection) {
  if (projection <= kV) return config.qkvBias;
  return projection == kO ? config.outputBias : config.mlpBias;
}

// Where outputs have norms of their own, that of attention's has taken the name.
const char* mlpNormName(const ModelConfig& config) {
  return config.outputNorms ? "pre_feedforward_layernorm.weight" : "post_attention_layernorm.weight";
}

void Model::checkLevel(int64_t level) const {
  if (level < 0 || level >= static_cast<int64_t>(levels.size())) {
    throw Error(code::internal, "level " + std::to_string(level) + " does not exist");
  }
}

void Model::checkTokens(const int32_t* tokens, int64_t count) const {
  for (int64_t i = 0; i < count; ++i) {
    if (tokens[i] < 0 || tokens[i] >= config.vocab) {
      throw Error(code::internal, "token " + std::to_string(tokens[i]) + " is outside the vocabulary of " +
                                      std::to_string(config.vocab));
    }
  }
}

void Model::embed(const int32_t* tokens, int64_t count, float* out) const {
  for (int64_t t = 0; t < count; ++t) getRow(*embedding, tokens[t], out + t * config.hidden);
  if (config.embeddingScale == 1) return;
  for (int64_t i = 0; i < count * config.hidden; ++i) out[i] *= config.embeddingScale;
}

size_t Model::bytes() const {
  size_t total =
      embedding->bytes() + (head == embedding ? 0 : head->bytes()) + finalNorm->size() * sizeof(float);
  for (const Layer& layer : layers) {
    for (const Vector* vector : {&layer.attentionNorm, &layer.mlpNorm, &layer.attentionOutputNorm,
                                 &layer.mlpOutputNorm, &layer.queryNorm, &layer.keyNorm}) {
      if (*vector) total += (*vector)->size() * sizeof(float);
    }
    for (const Linear& linear : layer.projections) total += linear.weightBytes(linear.storedRank());
  }
  return total;
}

int64_t Model::levelParameters(int64_t level) const {
  int64_t total = 0;
  for (int64_t i = 0; i < projectionCount(); ++i) {
    total += projection(i).parameters(levels[static_cast<size_t>(level)][static_cast<size_t>(i)]);
  }
  return total;
}

size_t Model::levelBytes(int64_t level) const {
  size_t total = embedding->bytes() / static_cast<size_t>(config.vocab) + head->bytes() +
                 finalNorm->size() * sizeof(float);
  for (int64_t l = 0; l < config.layers; ++l) {
    total += (config.outputNorms ? 4 : 2) * static_cast<size_t>(config.hidden) * sizeof(float);
    if (config.qkNorm) total += 2 * static_cast<size_t>(config.headDim) * sizeof(float);
  }
  for (int64_t i = 0; i < projectionCount(); ++i) {
    total += projection(i).weightBytes(levels[static_cast<size_t>(level)][static_cast<size_t>(i)]);
  }
  return total;
}

void checkConfig(const ModelConfig& config) {
  constexpr int64_t kMost = 1 << 22;
  requireSize(config.layers, 1 << 14, "layers");
  requireSize(config.hidden, 1 << 20, "hidden size");
  requireSize(config.heads, 1 << 14, "heads");
  requireSize(config.kvHeads, config.heads, "key/value heads");
  requireSize(config.headDim, 1 << 14, "head dimension");
  requireSize(config.queryWidth(), kMost, "query width");
  requireSize(config.intermediate, kMost, "intermediate size");
  requireSize(config.vocab, kMost, "vocabulary size");
  requireSize(config.context, int64_t{1} << 30, "context length");
  if (config.heads % config.kvHeads != 0) {
    throw Error(code::modelFormat, "config: heads are not a multiple of key/value heads");
  }
  if (config.headDim % 2 != 0) throw Error(code::modelFormat, "config: the head dimension is odd");
  for (const Rope& rope : config.ropes) checkRope(rope, config.headDim);
  const auto isRope = [&](int32_t rope) { return rope >= -1 && rope < std::ssize(config.ropes); };
  if (std::ssize(config.layerRope) != config.layers || !std::ranges::all_of(config.layerRope, isRope)) {
    throw Error(code::modelFormat, "config: one rotation per layer, or none, is expected");
  }
  const auto isWidth = [&](int64_t channels) { return channels >= 1 && channels <= config.intermediate; };
  if (std::ssize(config.intermediates) != config.layers ||
      !std::ranges::all_of(config.intermediates, isWidth)) {
    throw Error(code::modelFormat, "config: an intermediate size per layer, up to the model's, is expected");
  }
  if (static_cast<int64_t>(config.slidingWindow.size()) != config.layers) {
    throw Error(code::modelFormat, "config: one attention window per layer is expected");
  }
  if (!(config.eps >= 0)) throw Error(code::modelFormat, "config: rms_norm_eps is not a number from 0 on");
  for (const float scale :
       {config.normOffset, config.embeddingScale, config.queryScale, config.residualScale, config.logitScale}) {
    if (!std::isfinite(scale)) throw Error(code::modelFormat, "config: a scale is not a finite number");
  }
}

}  // namespace flrc
