#include "model/layer_pass.h"

#include <algorithm>
#include <cmath>

#include "cpu/kernels.h"
#include "linalg/gemm.h"
#include "model/attention.h"

namespace flrc {
namespace {

// Queries of one attention tile: its scores stay in cache, and keys beyond the diagonal are never touched.
constexpr int64_t kQueryTile = 128;

struct Tile {
  int64_t first, rows;    // queries
  int64_t begin, length;  // keys
};

template <typename Body>
void eachTile(int64_t tokens, int64_t window, Body body) {
  for (int64_t first = 0; first < tokens; first += kQueryTile) {
    const int64_t rows = std::min(kQueryTile, tokens - first);
    const int64_t begin = cpu::firstVisible(first, window);
    body(Tile{first, rows, begin, first + rows - begin});
  }
}

// softmax(scale Q K^T) of one head's tile, masked, [rows, length].
void attentionWeights(const ModelConfig& config, const LayerActivations& kept, int64_t head, int64_t window,
                      const Tile& tile, std::vector<float>& weights) {
  const int64_t hd = config.headDim, qWidth = config.queryWidth(), kvWidth = config.kvWidth();
  const int64_t kvOffset = head / (config.heads / config.kvHeads) * hd;
  weights.resize(static_cast<size_t>(tile.rows * tile.length));
  gemm(false, true, tile.rows, tile.length, hd, 1.0f, kept.q.data() + tile.first * qWidth + head * hd, qWidth,
       kept.k.data() + tile.begin * kvWidth + kvOffset, kvWidth, 0.0f, weights.data(), tile.length);
  attentionSoftmax(weights.data(), tile.rows, tile.length, tile.first, tile.begin, window, hd);
}

void attentionForward(const ModelConfig& config, int64_t tokens, int64_t window, LayerActivations& kept) {
  const int64_t hd = config.headDim, qWidth = config.queryWidth(), kvWidth = config.kvWidth();
  kept.attended.resize(static_cast<size_t>(tokens * qWidth));
  std::vector<float> weights;
  for (int64_t head = 0; head < config.heads; ++head) {
    const int64_t kvOffset = head / (config.heads / config.kvHeads) * hd;
    eachTile(tokens, window, [&](const Tile& tile) {
      attentionWeights(config, kept, head, window, tile, weights);
      gemm(false, false, tile.rows, hd, tile.length, 1.0f, weights.data(), tile.length,
           kept.v.data() + tile.begin * kvWidth + kvOffset, kvWidth, 0.0f,
           kept.attended.data() + tile.first * qWidth + head * hd, qWidth);
    });
  }
}

// From d(attended) to d(q), d(k), d(v) after rotary; the weights are computed again tile by tile.
void attentionBackward(const ModelConfig& config, int64_t tokens, int64_t window, const LayerActivations& kept,
                       const float* dAttended, std::vector<float>& dq, std::vector<float>& dk,
                       std::vector<float>& dv) {
  const cpu::Kernels& kernel = cpu::kernels();
  const int64_t hd = config.headDim, qWidth = config.queryWidth(), kvWidth = config.kvWidth();
  const float scale = 1.0f / std::sqrt(static_cast<float>(hd));
  dq.resize(static_cast<size_t>(tokens * qWidth));
  dk.assign(static_cast<size_t>(tokens * kvWidth), 0.0f);
  dv.assign(static_cast<size_t>(tokens * kvWidth), 0.0f);
  std::vector<float> weights, dWeights;
  for (int64_t head = 0; head < config.heads; ++head) {
    const int64_t kvOffset = head / (config.heads / config.kvHeads) * hd;
    eachTile(tokens, window, [&](const Tile& tile) {
      attentionWeights(config, kept, head, window, tile, weights);
      const float* dOut = dAttended + tile.first * qWidth + head * hd;
      const int64_t keys = tile.begin * kvWidth + kvOffset;
      gemm(true, false, tile.length, hd, tile.rows, 1.0f, weights.data(), tile.length, dOut, qWidth, 1.0f,
           dv.data() + keys, kvWidth);
      dWeights.resize(weights.size());
      gemm(false, true, tile.rows, tile.length, hd, 1.0f, dOut, qWidth, kept.v.data() + keys, kvWidth, 0.0f,
           dWeights.data(), tile.length);
      for (int64_t r = 0; r < tile.rows; ++r) {
        const float* p = weights.data() + r * tile.length;
        float* dp = dWeights.data() + r * tile.length;
        const float mean = kernel.dot(p, dp, tile.length);
        for (int64_t i = 0; i < tile.length; ++i) dp[i] = p[i] * (dp[i] - mean) * scale;
      }
      gemm(false, false, tile.rows, hd, tile.length, 1.0f, dWeights.data(), tile.length, kept.k.data() + keys,
           kvWidth, 0.0f, dq.data() + tile.first * qWidth + head * hd, qWidth);
      gemm(true, false, tile.length, hd, tile.rows, 1.0f, dWeights.data(), tile.length,
           kept.q.data() + tile.first * qWidth + head * hd, qWidth, 1.0f, dk.data() + keys, kvWidth);
    });
  }
}

void normRows(const float* x, const std::vector<float>& weight, float eps, int64_t rows, float* y) {
  const auto n = static_cast<int64_t>(weight.size());
  for (int64_t r = 0; r < rows; ++r) cpu::kernels().rmsNorm(x + r * n, weight.data(), eps, n, y + r * n);
}

void scaleBy(float factor, std::vector<float>& values) {
  if (factor == 1) return;
  for (float& value : values) value *= factor;
}

// y = x + what a block puts out, which y holds, normed and scaled as the model says. `raw` is left with it
// where there is a norm.
void join(const ModelConfig& config, const Vector& norm, int64_t tokens, const float* x,
          std::vector<float>& raw, float* y) {
  const int64_t count = tokens * config.hidden;
  if (norm) {
    raw.assign(y, y + count);
    normRows(raw.data(), *norm, config.eps, tokens, y);
  }
  if (config.residualScale != 1) {
    for (int64_t i = 0; i < count; ++i) y[i] *= config.residualScale;
  }
  cpu::kernels().add(x, count, y);
}

// Back through join: the gradient at what a block puts out, of dy at y.
void leave(const ModelConfig& config, const Vector& norm, int64_t tokens, const std::vector<float>& raw,
           const float* dy, std::vector<float>& g) {
  const int64_t d = config.hidden;
  g.assign(dy, dy + tokens * d);
  scaleBy(config.residualScale, g);
  if (norm) rmsNormBackward(raw.data(), norm->data(), config.eps, tokens, d, g.data(), false, g.data());
}

// What projection p passes back to its input: g [tokens, m] W.
const std::vector<float>& passBack(const WideLayer& wide, int p, int64_t tokens, LayerGradients& gradients) {
  const auto at = static_cast<size_t>(p);
  const WideLinear& w = wide.projections[at];
  gradients.inputs[at].resize(static_cast<size_t>(tokens * w.linear->inputs));
  w.passBack(gradients.outputs[at].data(), tokens, gradients.inputs[at].data(), gradients.latents[at]);
  return gradients.inputs[at];
}

}  // namespace

const std::vector<float>& LayerActivations::input(int projection) const {
  if (projection <= kV) return attentionInput;
  if (projection == kO) return attended;
  return projection == kDown ? product : mlpInput;
}

void rmsNormBackward(const float* x, const float* weight, float eps, int64_t rows, int64_t n, const float* dy,
                     bool accumulate, float* dx) {
  const cpu::Kernels& kernel = cpu::kernels();
  std::vector<float> weighted(static_cast<size_t>(n));
  for (int64_t r = 0; r < rows; ++r, x += n, dy += n, dx += n) {
    for (int64_t i = 0; i < n; ++i) weighted[static_cast<size_t>(i)] = dy[i] * weight[i];
    const float inverse = 1.0f / std::sqrt(kernel.dot(x, x, n) / static_cast<float>(n) + eps);
    const float along = kernel.dot(weighted.data(), x, n) * inverse * inverse / static_cast<float>(n);
    for (int64_t i = 0; i < n; ++i) {
      const float value = inverse * (weighted[static_cast<size_t>(i)] - along * x[i]);
      dx[i] = accumulate ? dx[i] + value : value;
    }
  }
}

void layerForward(const ModelConfig& config, const WideLayer& wide, const RopeTable& rope, int64_t tokens,
                  const float* x, LayerActivations& kept, float* y) {
  const Layer& layer = *wide.layer;
  const int64_t d = config.hidden, ff = layer.projections[kGate].outputs;
  const int64_t qWidth = config.queryWidth(), kvWidth = config.kvWidth();
  const auto apply = [&](Projection p, float* out) {
    wide.projections[p].apply(kept.input(p).data(), tokens, out, kept.latents[p]);
  };

  kept.attentionInput.resize(static_cast<size_t>(tokens * d));
  normRows(x, *layer.attentionNorm, config.eps, tokens, kept.attentionInput.data());
  kept.q.resize(static_cast<size_t>(tokens * qWidth));
  kept.k.resize(static_cast<size_t>(tokens * kvWidth));
  kept.v.resize(static_cast<size_t>(tokens * kvWidth));
  apply(kQ, kept.q.data());
  apply(kK, kept.k.data());
  apply(kV, kept.v.data());
  if (config.qkNorm) {
    kept.qRaw = kept.q;
    kept.kRaw = kept.k;
    normRows(kept.qRaw.data(), *layer.queryNorm, config.eps, tokens * config.heads, kept.q.data());
    normRows(kept.kRaw.data(), *layer.keyNorm, config.eps, tokens * config.kvHeads, kept.k.data());
  }
  for (int64_t t = 0; t < tokens; ++t) {
    rope.rotate(wide.rope, kept.q.data() + t * qWidth, config.heads, t);
    rope.rotate(wide.rope, kept.k.data() + t * kvWidth, config.kvHeads, t);
  }
  scaleBy(config.queryScale, kept.q);
  attentionForward(config, tokens, wide.window, kept);
  kept.middle.resize(static_cast<size_t>(tokens * d));
  apply(kO, kept.middle.data());
  join(config, layer.attentionOutputNorm, tokens, x, kept.attentionOutput, kept.middle.data());

  kept.mlpInput.resize(static_cast<size_t>(tokens * d));
  normRows(kept.middle.data(), *layer.mlpNorm, config.eps, tokens, kept.mlpInput.data());
  kept.gate.resize(static_cast<size_t>(tokens * ff));
  kept.up.resize(static_cast<size_t>(tokens * ff));
  kept.product.resize(static_cast<size_t>(tokens * ff));
  apply(kGate, kept.gate.data());
  apply(kUp, kept.up.data());
  cpu::kernels().gatedTimes[static_cast<size_t>(config.activation)](kept.gate.data(), kept.up.data(),
                                                                    tokens * ff, kept.product.data());
  if (y) {
    apply(kDown, y);
    join(config, layer.mlpOutputNorm, tokens, kept.middle.data(), kept.mlpOutput, y);
  } else if (config.outputNorms) {
    kept.mlpOutput.resize(static_cast<size_t>(tokens * d));
    apply(kDown, kept.mlpOutput.data());
  }
}

void layerBackward(const ModelConfig& config, const WideLayer& wide, const RopeTable& rope, int64_t tokens,
                   const float* x, LayerActivations& kept, const float* dy, LayerGradients& gradients,
                   float* dx) {
  const cpu::Kernels& kernel = cpu::kernels();
  const Layer& layer = *wide.layer;
  const int64_t d = config.hidden, ff = layer.projections[kGate].outputs;
  const int64_t qWidth = config.queryWidth(), kvWidth = config.kvWidth();
  auto& g = gradients.outputs;

  leave(config, layer.mlpOutputNorm, tokens, kept.mlpOutput, dy, g[kDown]);
  const float* dProduct = passBack(wide, kDown, tokens, gradients).data();
  kernel.gatedTimesBackward[static_cast<size_t>(config.activation)](
      kept.gate.data(), kept.up.data(), dProduct, tokens * ff, kept.gate.data(), kept.up.data());
  g[kGate].swap(kept.gate);
  g[kUp].swap(kept.up);
  std::vector<float> dNormed = passBack(wide, kGate, tokens, gradients);
  kernel.add(passBack(wide, kUp, tokens, gradients).data(), tokens * d, dNormed.data());

  // The gradient at the middle, which x has besides that of its norm.
  if (dx != dy) std::copy_n(dy, tokens * d, dx);
  rmsNormBackward(kept.middle.data(), layer.mlpNorm->data(), config.eps, tokens, d, dNormed.data(), true, dx);
  leave(config, layer.attentionOutputNorm, tokens, kept.attentionOutput, dx, g[kO]);
  const float* dAttended = passBack(wide, kO, tokens, gradients).data();
  attentionBackward(config, tokens, wide.window, kept, dAttended, g[kQ], g[kK], g[kV]);
  for (int64_t t = 0; t < tokens; ++t) {
    rope.rotate(wide.rope, g[kQ].data() + t * qWidth, config.heads, t, true);
    rope.rotate(wide.rope, g[kK].data() + t * kvWidth, config.kvHeads, t, true);
  }
  scaleBy(config.queryScale, g[kQ]);
  if (config.qkNorm) {
    rmsNormBackward(kept.qRaw.data(), layer.queryNorm->data(), config.eps, tokens * config.heads,
                    config.headDim, g[kQ].data(), false, g[kQ].data());
    rmsNormBackward(kept.kRaw.data(), layer.keyNorm->data(), config.eps, tokens * config.kvHeads,
                    config.headDim, g[kK].data(), false, g[kK].data());
  }
  dNormed = passBack(wide, kQ, tokens, gradients);
  kernel.add(passBack(wide, kK, tokens, gradients).data(), tokens * d, dNormed.data());
  kernel.add(passBack(wide, kV, tokens, gradients).data(), tokens * d, dNormed.data());
  rmsNormBackward(x, layer.attentionNorm->data(), config.eps, tokens, d, dNormed.data(), true, dx);
}

}  // namespace flrc
