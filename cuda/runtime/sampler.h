#pragma once

#include <vector>

#include "kernels/sample.h"
#include "runtime/memory.h"

namespace flrc::gpu {

// Sampling of all sequences of a model.
class Sampler {
 public:
  Sampler() = default;
  Sampler(int64_t vocab, int multiprocessors);

  // Up to kLikeliestRows rows of logits, of which the likeliest tokens are found.
  void keep(Queue& queue, const std::vector<LikeliestParams::Row>& rows);
  // A token drawn from each of up to kSampleRows rows that have been kept.
  void draw(Queue& queue, const std::vector<SampleParams::Row>& rows);

 private:
  int vocab_ = 0, multiprocessors_ = 0;
  Buffer<LikeliestPart> parts_;
  Buffer<uint32_t> counters_;  // of rows that are kept, and of those that are drawn from
  Buffer<uint64_t> masses_, weights_, ties_;
  Buffer<uint32_t> counts_;
};

}  // namespace flrc::gpu
