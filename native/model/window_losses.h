#pragma once

#include <cstdint>
#include <vector>

#include "core/job.h"
#include "model/model.h"

namespace flrc {

// The summed next-token loss in nats of every window of seqLen tokens (seqLen - 1 losses each), f32
// arithmetic. Layers are widened once for a group of windows, which then run in parallel.
std::vector<double> windowLosses(const Model& model, const std::vector<int32_t>& tokens, int64_t seqLen,
                                 int64_t level, const Job& job);

}  // namespace flrc
