#include "recover/adam.h"

#include <cmath>

namespace flrc {
namespace {

// Far below any gradient that matters: steps are relative to the gradient's own size, whatever the model's
// scale.
constexpr float kEpsilon = 1e-12f;

}  // namespace

AdamStep adamStep(const AdamOptions& options, int64_t update, double gradientScale, double weightScale) {
  const auto count = static_cast<double>(update);
  return {static_cast<float>(options.beta1),
          static_cast<float>(options.beta2),
          static_cast<float>(1 - std::pow(options.beta1, count)),
          static_cast<float>(1 - std::pow(options.beta2, count)),
          static_cast<float>(gradientScale),
          static_cast<float>(options.learningRate * weightScale)};
}

void adam(const AdamStep& step, const float* gradient, int64_t n, float* w, float* mean, float* square) {
  const float keep1 = step.beta1, keep2 = step.beta2, take1 = 1 - keep1, take2 = 1 - keep2;
  const float rate = step.rate / step.correction1, inverse2 = 1 / step.correction2;
  for (int64_t i = 0; i < n; ++i) {
    const float g = gradient[i] * step.gradientScale;
    mean[i] = keep1 * mean[i] + take1 * g;
    square[i] = keep2 * square[i] + take2 * g * g;
    w[i] -= rate * mean[i] / (std::sqrt(square[i] * inverse2) + kEpsilon);
  }
}

}  // namespace flrc
