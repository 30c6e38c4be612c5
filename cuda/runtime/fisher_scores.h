#pragma once

#include <mutex>

#include "runtime/split_rows.h"

namespace flrc::gpu {

// Fisher scores of a model's dense projections, one sequence at a time, and the working memory for them.
class FisherScores {
 public:
  explicit FisherScores(DeviceModel& of) : model(of), sums_(3) {}

  // As the table's fisher. Inputs and gradients are rounded to bf16, whose products are exact in f32.
  void score(int64_t projection, int64_t count, const float* x, const float* const* g, int64_t tokens,
             double (*sums)[3], const BackendCancel& cancel);

 private:
  void score(Pieces& pieces, const LinearWeights& linear, int64_t tokens, double* sums);

  DeviceModel& model;
  std::mutex mutex_;
  SplitRows x_{SplitRows::Kind::rounded}, g_{SplitRows::Kind::rounded};
  Buffer<double> partial_, sums_;
};

}  // namespace flrc::gpu
