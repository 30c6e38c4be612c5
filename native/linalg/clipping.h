#pragma once

#include <algorithm>
#include <vector>

namespace flrc {

// Norms, in times of their sequence's mean: the least and the most that are left, and what is rounding.
inline constexpr double kLeastNorm = 0.1, kMostNorm = 10.0, kNoiseNorm = 1e-5;

// Per token, the factor that brings its gradient's norm within .1 and 10 times the mean norm of its sequence
// (design 3, for the moment B), from those norms. Gradients below 1e-5 of the mean are rounding (a first token
// has no other to attend to, a last one predicts nothing) and keep factor 1: raising them would add noise in a
// direction that means nothing.
inline std::vector<float> clipFactors(const std::vector<double>& norms) {
  double mean = 0;
  for (const double norm : norms) mean += norm / static_cast<double>(norms.size());
  std::vector<float> factors;
  for (const double norm : norms) {
    const bool real = norm > kNoiseNorm * mean;
    factors.push_back(real ? static_cast<float>(std::clamp(norm, kLeastNorm * mean, kMostNorm * mean) / norm)
                           : 1);
  }
  return factors;
}

}  // namespace flrc
