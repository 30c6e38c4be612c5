#pragma once

#include <vector>

#include "kernels/sample.h"
#include "runtime/memory.h"

namespace flrc::gpu {

// Sampling of all sequences of a model, one after another.
class Sampler {
 public:
  Sampler() = default;
  explicit Sampler(int64_t vocab);

  // Up to kLikeliestRows rows of logits, of which the likeliest tokens are found.
  void keep(Queue& queue, const std::vector<LikeliestParams::Row>& rows);
  // A token drawn from logits that have been kept.
  void draw(Queue& queue, Global<const float> logits, Global<const Likeliest> likeliest,
            const SamplingRow& sampling, Global<SampledRow> to);

 private:
  int vocab_ = 0;
  Buffer<LikeliestPart> parts_;
  Buffer<uint32_t> counters_;  // of rows, and of the barriers of a draw
  Buffer<uint64_t> masses_, weights_, ties_;
  Buffer<uint32_t> counts_;
};

}  // namespace flrc::gpu
