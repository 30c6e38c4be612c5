#pragma once

#include "kernels/decode.h"

namespace flrc::gpu {

// How one sequence's tokens are drawn (model/sampler.h), in device memory.
struct SamplingRow {
  float temperature;  // 0 is greedy
  int32_t topK;       // 0 is off
  float topP;         // 1 is off
  float minP;         // 0 is off
  uint64_t seed, draw;
};

struct SampledRow {
  int32_t token;  // -1: a logit is not finite
  float logprob;  // under the model's own distribution
  float entropy;  // of it, nats
};

// A token for every row of logits [rows][vocab]. Filters as on the CPU: top-k, top-p, min-p on the untempered
// distribution, then temperature. Probabilities are whole multiples of 2^-40 of the likeliest one's, so that
// their sums do not depend on the order of threads. The draw goes through what is left in the order of token
// ids (the CPU goes by likelihood: the distribution is the same, the token that a seed gives is not).
struct SampleParams {
  Global<const float> logits;
  int vocab;
  // Per row; its `draw` is raised by one.
  Global<SamplingRow> sampling;
  Global<SampledRow> sampled;
  // For the next step of a decode graph: the token is put here and the row's position raised. Null: neither.
  Global<int32_t> tokens;
  Global<CacheRow> cacheRows;
};
void launchSample(Stream stream, const SampleParams& params, int rows, bool dependent);

}  // namespace flrc::gpu
