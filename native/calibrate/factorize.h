#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "calibrate/calibrate.h"

namespace flrc {

struct FactorizeOptions {
  // Ranks per level, level 0 first, over all projections; -1 leaves a projection dense (on every level).
  std::vector<std::vector<int32_t>> levels;
  bool pivoted = true;
  Dtype dtype = Dtype::bf16;
};

// The compressed model: factors cut to the levels' ranks, pivoted block by block or plain. What stays dense is
// shared with the calibrated model when the dtype is the same.
std::shared_ptr<const Model> factorize(const Calibration& calibration, const FactorizeOptions& options,
                                       const Job& job);

// The summed loss in nats of windows of seqLen tokens with `projection` alone cut to each of `ranks`, one after
// another, and everything else as it was calibrated. ASVD's sensitivity (arXiv 2312.05821).
std::vector<double> cutLosses(const Calibration& calibration, int64_t projection,
                              const std::vector<int32_t>& ranks, bool pivoted,
                              const std::vector<int32_t>& tokens, int64_t seqLen, const Job& job);

}  // namespace flrc
