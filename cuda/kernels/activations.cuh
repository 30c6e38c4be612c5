#pragma once

#include "kernels/device.cuh"
#include "model/activation.h"

// What an MLP does to the gate, as native/cpu/elementwise-inl.h has it.

namespace flrc::gpu {

FLRC_DEVICE float sigmoidOf(float x) { return 1.0f / (1.0f + expf(-x)); }

// x / 2 (1 + tanh(u)) is x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
inline constexpr float kGeluLinear = 1.5957691216f, kGeluCubic = 0.0713548162726f;

FLRC_DEVICE float activated(Activation activation, float x) {
  if (activation == Activation::silu) return x / (1.0f + expf(-x));
  return x / (1.0f + expf(-x * fusedMultiplyAdd(x * x, kGeluCubic, kGeluLinear)));
}

struct Activated {
  float value, slope;
};

FLRC_DEVICE Activated activatedWithSlope(Activation activation, float x) {
  if (activation == Activation::silu) {
    const float s = sigmoidOf(x);
    return {x * s, s * (1.0f + x * (1.0f - s))};
  }
  const float s = sigmoidOf(x * fusedMultiplyAdd(x * x, kGeluCubic, kGeluLinear));
  const float rise = x * fusedMultiplyAdd(x * x, 3 * kGeluCubic, kGeluLinear);
  return {x * s, s * (1.0f + rise * (1.0f - s))};
}

}  // namespace flrc::gpu
