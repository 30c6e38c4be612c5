#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/job.h"
#include "model/model.h"

namespace flrc {

// The summed next-token loss in nats of every window of seqLen tokens (seqLen - 1 losses each), f32
// arithmetic. Layers are widened once for a group of windows, which then run in parallel.
std::vector<double> windowLosses(const Model& model, const std::vector<int32_t>& tokens, int64_t seqLen,
                                 int64_t level, const Job& job);

// Makes the i-th of several models that differ from one another in nothing before some layer.
using ModelVariant = std::function<std::shared_ptr<const Model>(int64_t i)>;

// The losses of all windows together at level 0, of each of `count` variants of `model` that equal it in what
// comes before `layer`: that part is passed once for all of them. One variant exists at a time.
std::vector<double> variantLosses(const Model& model, int64_t layer, int64_t count, const ModelVariant& variant,
                                  const std::vector<int32_t>& tokens, int64_t seqLen, const Job& job);

}  // namespace flrc
