#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend.h"
#include "core/error.h"

namespace flrc {

using Sampling = BackendSampling;
using Sampled = BackendSampled;

// E_NUMERIC of logits of which one is not finite.
Error notFinite();

// What may be drawn from logits [vocab] and how likely: the tokens that the filters leave, weighed after
// temperature, the likeliest first. Greedy leaves the likeliest alone, the lowest id of equals.
struct Choices {
  std::vector<int32_t> tokens;
  std::vector<double> weights;
  double total = 0;    // of the weights
  double logSum = 0;   // of all logits' exponentials
  double entropy = 0;  // of softmax(logits), nats

  double probability(size_t index) const { return weights[index] / total; }
  // The token at which `uniform`, in [0, 1), falls.
  int32_t draw(double uniform) const;
};

// Filters in llama.cpp's order: top-k, top-p, min-p (all on the untempered distribution), then temperature.
// E_NUMERIC if a logit is not finite.
Choices choicesOf(const float* logits, int64_t vocab, const Sampling& sampling);

// What becomes of a token's logit before a draw, as in CTRL (Keskar et al. 2019, arXiv 1909.05858, section 4.1)
// and OpenAI's API: divided by `factor` where it is above zero and multiplied by it elsewhere, less `offset`.
struct Penalty {
  int32_t token = 0;
  float factor = 1, offset = 0;
};

// Picks one of the choices of logits [vocab] after penalties, of tokens named once each; logprob and entropy
// are those before. E_NUMERIC if a logit is not finite.
Sampled sampleToken(const float* logits, int64_t vocab, const Sampling& sampling,
                    const std::vector<Penalty>& penalties = {});
// The same, but that the token is -1 where a logit is not finite.
Sampled sampleFinite(const float* logits, int64_t vocab, const Sampling& sampling,
                     const std::vector<Penalty>& penalties = {});

// Natural log of the probability that softmax(logits [vocab]) gives `token`: the logprob that sampleToken gives
// when it picks it. E_NUMERIC if a logit is not finite.
double tokenLogprob(const float* logits, int64_t vocab, int32_t token);

// A token, and the natural log of its probability.
struct TokenLogprob {
  int32_t token = 0;
  double logprob = 0;
};

// The `count` likeliest tokens by softmax(logits [vocab]), or all where that is more; the likeliest first, the
// lowest id of equals. E_NUMERIC if a logit is not finite.
std::vector<TokenLogprob> likeliestTokens(const float* logits, int64_t vocab, int64_t count);

// KL(softmax(reference) || softmax(logits)), nats, both [vocab]. E_NUMERIC if a logit is not finite.
double klDivergence(const float* reference, const float* logits, int64_t vocab);

}  // namespace flrc
