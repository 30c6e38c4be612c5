#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "model/rope.h"
#include "model/wide_layer.h"

namespace flrc {

// What one layer keeps of one sequence for its backward pass. All [tokens, width], f32.
struct LayerActivations {
  std::vector<float> attentionInput;                     // norm of x: input of q, k, v [hidden]
  std::vector<float> qRaw, kRaw;                         // before q/k norm, with qkNorm only
  std::vector<float> q, k, v;                            // after norm and rotary
  std::vector<float> attended;                           // input of o [heads * headDim]
  std::vector<float> attentionOutput, mlpOutput;         // before their norms, with outputNorms only [hidden]
  std::vector<float> middle;                             // x + attention [hidden]
  std::vector<float> mlpInput;                           // norm of middle: input of gate, up [hidden]
  std::vector<float> gate, up;                           // [channels of the MLP]
  std::vector<float> product;                            // activation(gate) * up: input of down, as wide
  std::array<std::vector<float>, kProjections> latents;  // of factored projections (WideLinear::apply)

  // The input of a projection, [tokens, n].
  const std::vector<float>& input(int projection) const;
};

// Of the seven projections, [tokens, width]: g at their outputs (m), and g W, what each passes back to its
// input (n). Inputs that projections share get the sum of what they pass back.
struct LayerGradients {
  std::array<std::vector<float>, kProjections> outputs, inputs;
  std::array<std::vector<float>, kProjections> latents;  // of factored projections (WideLinear::passBack)
};

// y = layer(x) for one sequence of `tokens` tokens from position 0, x and y [tokens, hidden]; on the calling
// thread (callers spread sequences over the pool). With y null it makes no more than the backward pass
// of a dense layer needs. The rope table holds at least `tokens` positions.
void layerForward(const ModelConfig& config, const WideLayer& layer, const RopeTable& rope, int64_t tokens,
                  const float* x, LayerActivations& kept, float* y);

// Given dy at the layer's output, the gradients at every projection's output and dx at its input. `kept` is
// what layerForward left for the same x; gate and up are overwritten.
void layerBackward(const ModelConfig& config, const WideLayer& layer, const RopeTable& rope, int64_t tokens,
                   const float* x, LayerActivations& kept, const float* dy, LayerGradients& gradients,
                   float* dx);

// dx of y = rmsNorm(x) * weight for `rows` rows of n values; dx is added to when `accumulate`.
void rmsNormBackward(const float* x, const float* weight, float eps, int64_t rows, int64_t n, const float* dy,
                     bool accumulate, float* dx);

}  // namespace flrc
