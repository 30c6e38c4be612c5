#pragma once

#include <cstdint>

namespace flrc {

struct AdamOptions {
  double learningRate = 0, beta1 = 0, beta2 = 0;
};

// One step of Adam (Kingma and Ba, 2015, algorithm 1) over a run of weights that share a step size.
struct AdamStep {
  float beta1 = 0, beta2 = 0;
  // 1 - beta^t of both moments, t counting this run's updates from 1.
  float correction1 = 1, correction2 = 1;
  float gradientScale = 1;  // clipping
  float rate = 0;
};

// The step number `update` (from 1) of weights of this scale.
AdamStep adamStep(const AdamOptions& options, int64_t update, double gradientScale, double weightScale);

// w, mean and square [n] in place.
void adam(const AdamStep& step, const float* gradient, int64_t n, float* w, float* mean, float* square);

}  // namespace flrc
