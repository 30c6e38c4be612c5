#pragma once

#include "kernels/device.cuh"

namespace flrc::gpu {

// Logits that a block has of a row; the same whatever the batch is.
inline constexpr int kLogitsChunk = 2048;
inline int logitsChunks(int vocab) { return (vocab + kLogitsChunk - 1) / kLogitsChunk; }

struct SampledRow {
  int32_t token;  // -1: a logit is not finite
  float logprob;  // under the model's own distribution
  float entropy;  // of it, nats
};

// What is known of a row of logits before anything is drawn: its likeliest token (of equals the first), which
// is what greedy sampling takes.
struct Likeliest {
  SampledRow sampled;
  float top;        // its logit
  double logTotal;  // log of the sum of exp(logit - top)
};

// Of a chunk, relative to its own largest logit.
struct LikeliestPart {
  uint64_t best;           // key and token of the largest logit
  double total, weighted;  // sums of w = exp(logit - largest) and of w (logit - largest)
  float finite;            // 0, or not finite
};

// Copies rows of logits [vocab] and finds out what there is to know of them. `to` may be `from`.
inline constexpr int kLikeliestRows = 16;
struct LikeliestParams {
  struct Row {
    Global<const float> from;
    Global<float> to;
    Global<Likeliest> likeliest;
    Global<SampledRow> sampled;  // the same for the host, whose memory it may be
  };
  Row rows[kLikeliestRows];
  int vocab;
  // Working memory: [rows][logitsChunks(vocab)], and counters [rows] that are 0 before the first launch and
  // after each.
  Global<LikeliestPart> parts;
  Global<uint32_t> counters;
};
void launchLikeliest(Stream stream, const LikeliestParams& params, int rows, bool dependent);

// How a token is drawn (model/sampler.h).
struct SamplingRow {
  float temperature;  // above 0
  int32_t topK;       // 0 is off
  float topP;         // 1 is off
  float minP;         // 0 is off
  uint64_t seed, draw;
};

// Draws a token from each of some rows of logits [vocab]. Filters as on the CPU: top-k, top-p, min-p on the
// untempered distribution, then temperature. Probabilities are whole multiples of 2^-40 of the likeliest one's,
// so that their sums do not depend on who adds them up: a row is drawn alike alone, in any batch and on any
// number of blocks. The draw goes through what is left in the order of token ids (the CPU goes by likelihood:
// the distribution is the same, the token that a seed gives is not).
inline constexpr int kSampleRows = 16;
inline constexpr int kSelectRounds = 8;
inline constexpr int kSelectBins = 256;
struct SampleParams {
  struct Row {
    Global<const float> logits;
    Global<const Likeliest> likeliest;  // of these logits
    Global<SampledRow> sampled;         // may be the host's memory
    SamplingRow sampling;
  };
  Row rows[kSampleRows];
  int vocab;
  // Working memory: by row, bins [kSelectRounds][kSelectBins] and barriers that are 0 before the first launch
  // and fit for another after each, and a value a chunk.
  Global<uint64_t> masses;
  Global<uint32_t> counts;
  Global<uint64_t> weights;
  Global<uint64_t> ties;
  Global<uint32_t> counters;
};
// The blocks of a row wait for one another, so all of a launch must run at once: there are at most so many to a
// multiprocessor, which every chip has room for, and the rows, no more than that, share them out.
inline constexpr int kSampleBlocks = 4;
void launchSample(Stream stream, const SampleParams& params, int rows, int multiprocessors);

}  // namespace flrc::gpu
