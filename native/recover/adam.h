#pragma once

#include <cstdint>

namespace flrc {

struct AdamBetas {
  double first = 0, second = 0;
};

// The moments of Adam (Kingma and Ba, 2015, algorithm 1) of a run of weights that take their steps together.
struct AdamMoments {
  float* mean;
  float* square;
  // 1 - beta^t of both, t counting this run's steps from 1.
  float correction1, correction2;
};

AdamMoments adamMoments(const AdamBetas& betas, int64_t step, float* mean, float* square);

// Takes a gradient [n] into the moments and returns sum |g u| with u the direction that Adam then steps in: to
// first order, the most by which a step of length 1 can change the loss.
double adamGather(const AdamBetas& betas, const float* gradient, int64_t n, const AdamMoments& moments);
// w -= rate u.
void adamApply(float rate, int64_t n, const AdamMoments& moments, float* w);

}  // namespace flrc
