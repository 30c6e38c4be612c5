#include "recover/adam.h"

#include <cmath>

namespace flrc {
namespace {

// Far below any gradient that matters: steps are relative to the gradient's own size, whatever the model's
// scale.
constexpr float kEpsilon = 1e-12f;

inline float direction(const AdamMoments& moments, float inverse1, float inverse2, int64_t i) {
  return moments.mean[i] * inverse1 / (std::sqrt(moments.square[i] * inverse2) + kEpsilon);
}

}  // namespace

AdamMoments adamMoments(const AdamBetas& betas, int64_t step, float* mean, float* square) {
  const auto count = static_cast<double>(step);
  return {mean, square, static_cast<float>(1 - std::pow(betas.first, count)),
          static_cast<float>(1 - std::pow(betas.second, count))};
}

double adamGather(const AdamBetas& betas, const float* gradient, int64_t n, const AdamMoments& moments) {
  const auto keep1 = static_cast<float>(betas.first), keep2 = static_cast<float>(betas.second);
  const float take1 = 1 - keep1, take2 = 1 - keep2;
  const float inverse1 = 1 / moments.correction1, inverse2 = 1 / moments.correction2;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float g = gradient[i];
    moments.mean[i] = keep1 * moments.mean[i] + take1 * g;
    moments.square[i] = keep2 * moments.square[i] + take2 * g * g;
    sum += static_cast<double>(std::abs(g * direction(moments, inverse1, inverse2, i)));
  }
  return sum;
}

void adamApply(float rate, int64_t n, const AdamMoments& moments, float* w) {
  const float inverse1 = 1 / moments.correction1, inverse2 = 1 / moments.correction2;
  for (int64_t i = 0; i < n; ++i) w[i] -= rate * direction(moments, inverse1, inverse2, i);
}

}  // namespace flrc
