#pragma once

#include <cstdint>
#include <vector>

#include "model/sampler.h"

namespace flrc {

// How a round of self-speculation drafts.
struct DraftOptions {
  int64_t level = 0;   // at which drafts are made
  int64_t tokens = 0;  // at most, 1 to 15 (cpu::kMaxColumns - 1)
  // Drafting ends once the probability that the draft gives to all it wrote falls below this.
  double least = 0;
  std::vector<int32_t> ends;  // nothing is drafted after one of these
};

struct SpeculationRound {
  std::vector<Sampled> tokens;  // the drafts accepted and one more; at least one
  int64_t drafted = 0;
  double draftSeconds = 0;
};

// A token verified: the drafted one, or the one in its place.
struct Verdict {
  int32_t token = 0;
  bool accepted = false;
};

// Uniform numbers of one draw of a seed, none of them those of sampleToken.
double draftUniform(const Sampling& sampling);
double acceptUniform(const Sampling& sampling);

// The rejection rule of speculative sampling (Leviathan et al. 2023, arXiv 2211.17192; Chen et al. 2023, arXiv
// 2302.01318): for `drafted` drawn from q = `draft`, the verdict's token is distributed as p = `target`. The
// draft is accepted with probability min(1, p / q), and replaced by a draw from max(0, p - q), normalised,
// otherwise. For greedy choices that is comparing tokens. `accept` and `redraw` are independent uniform numbers
// in [0, 1); `scratch` [vocab] is all zeros, before and after.
Verdict verify(const Choices& target, const Choices& draft, int32_t drafted, double accept, double redraw,
               std::vector<double>& scratch);

}  // namespace flrc
