#pragma once

#include <vector>

#include "runtime/model.h"

namespace flrc::gpu {

// Fisher scores of a model's dense projections, one sequence at a time, and the working memory for them.
class FisherScores {
 public:
  explicit FisherScores(DeviceModel& of) : model(of), sums_(3) {}

  // x [tokens, n] and g [tokens, m] are rounded to bf16, whose products are exact in f32. sums [3] as
  // linalg/fisher.h.
  void score(int64_t projection, const float* x, const float* g, int64_t tokens, double* sums);

 private:
  DeviceModel& model;
  std::vector<uint16_t> rounded_;
  Buffer<uint16_t> x_, g_;
  Buffer<double> partial_, sums_;
};

}  // namespace flrc::gpu
