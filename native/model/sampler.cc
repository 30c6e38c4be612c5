#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/random.h"
#include "cpu/kernels.h"

namespace flrc {
namespace {

using cpu::LogitSums;

using Candidate = TokenLogprob;

bool likelier(const Candidate& a, const Candidate& b) {
  return a.logprob != b.logprob ? a.logprob > b.logprob : a.token < b.token;
}

// The candidates that the filters leave, the likeliest first; the others in order only where a filter needs it.
std::vector<Candidate> filtered(const float* logits, int64_t vocab, int64_t best, double logSum,
                                const Sampling& sampling) {
  // Tokens less likely than (1 - topP) / vocab together have less than 1 - topP: the likeliest that make up
  // topP are among the others, and sorting a whole vocabulary takes longer than a small model's step. Where all
  // are equally likely, rounding may take the likeliest below the bound as well.
  const double least =
      sampling.topK == 0 && sampling.topP < 1
          ? std::min(std::log((1 - sampling.topP) / static_cast<double>(vocab)), logits[best] - logSum)
          : -std::numeric_limits<double>::infinity();
  std::vector<Candidate> all;
  all.reserve(static_cast<size_t>(vocab));
  for (int64_t i = 0; i < vocab; ++i) {
    if (logits[i] - logSum >= least) all.push_back({static_cast<int32_t>(i), logits[i] - logSum});
  }
  if (sampling.topK > 0 || sampling.topP < 1) {
    size_t keep = all.size();
    if (sampling.topK > 0) keep = std::min(keep, static_cast<size_t>(sampling.topK));
    std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(keep), all.end(), likelier);
    all.resize(keep);
  } else {
    std::iter_swap(all.begin(), std::min_element(all.begin(), all.end(), likelier));
  }

  if (sampling.topP < 1) {
    double total = sampling.topK == 0 ? 1 : 0;
    if (sampling.topK > 0) {
      for (const Candidate& c : all) total += std::exp(c.logprob);
    }
    double sum = 0;
    size_t n = 0;
    while (n < all.size() && (n == 0 || sum < sampling.topP * total)) sum += std::exp(all[n++].logprob);
    all.resize(n);
  }
  if (sampling.minP > 0) {
    const double least = all.front().logprob + std::log(sampling.minP);
    std::erase_if(all, [least](const Candidate& candidate) { return candidate.logprob < least; });
  }
  return all;
}

LogitSums sumsOf(const float* logits, int64_t vocab) {
  const LogitSums sums = cpu::kernels().logitSums(logits, vocab);
  if (!sums.finite) throw notFinite();
  return sums;
}

int32_t drawPenalised(const float* logits, int64_t vocab, const Sampling& sampling,
                      const std::vector<Penalty>& penalties, double uniform) {
  std::vector<float> left(logits, logits + vocab);
  for (const Penalty& penalty : penalties) {
    float& logit = left[static_cast<size_t>(penalty.token)];
    logit = (logit > 0 ? logit / penalty.factor : logit * penalty.factor) - penalty.offset;
  }
  return choicesOf(left.data(), vocab, sampling).draw(uniform);
}

}  // namespace

Error notFinite() {
  return {code::numeric, "a logit is not finite; the model's weights overflow in this dtype, try f32"};
}

double tokenLogprob(const float* logits, int64_t vocab, int32_t token) {
  const LogitSums sums = sumsOf(logits, vocab);
  return logits[token] - (logits[sums.best] + std::log(sums.sum));
}

double klDivergence(const float* reference, const float* logits, int64_t vocab) {
  const LogitSums of = sumsOf(reference, vocab), sums = sumsOf(logits, vocab);
  const double referenceTop = reference[of.best];
  double weighted = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    weighted += std::exp(reference[i] - referenceTop) * (static_cast<double>(reference[i]) - logits[i]);
  }
  const double logSum = logits[sums.best] + std::log(sums.sum),
               referenceLogSum = referenceTop + std::log(of.sum);
  // Rounding may take equal distributions a hair below.
  return std::max(0.0, weighted / of.sum + logSum - referenceLogSum);
}

int32_t Choices::draw(double uniform) const {
  double left = uniform * total;
  size_t pick = 0;
  while (pick + 1 < weights.size() && left >= weights[pick]) left -= weights[pick++];
  return tokens[pick];
}

Choices choicesOf(const float* logits, int64_t vocab, const Sampling& sampling) {
  const LogitSums sums = sumsOf(logits, vocab);
  Choices choices;
  choices.logSum = logits[sums.best] + std::log(sums.sum);
  choices.entropy = std::log(sums.sum) - sums.weighted / sums.sum;
  if (sampling.temperature > 0) {
    const std::vector<Candidate> candidates = filtered(logits, vocab, sums.best, choices.logSum, sampling);
    const double highest = candidates.front().logprob;
    choices.tokens.reserve(candidates.size());
    choices.weights.reserve(candidates.size());
    for (const Candidate& candidate : candidates) {
      choices.tokens.push_back(candidate.token);
      choices.weights.push_back(std::exp((candidate.logprob - highest) / sampling.temperature));
    }
  } else {
    choices.tokens = {static_cast<int32_t>(sums.best)};
    choices.weights = {1};
  }
  choices.total = std::accumulate(choices.weights.begin(), choices.weights.end(), 0.0);
  return choices;
}

std::vector<TokenLogprob> likeliestTokens(const float* logits, int64_t vocab, int64_t count) {
  if (count <= 0) return {};
  const LogitSums sums = sumsOf(logits, vocab);
  Sampling all;
  all.topK = count;
  return filtered(logits, vocab, sums.best, logits[sums.best] + std::log(sums.sum), all);
}

Sampled sampleToken(const float* logits, int64_t vocab, const Sampling& sampling,
                    const std::vector<Penalty>& penalties) {
  const Choices choices = choicesOf(logits, vocab, penalties.empty() ? sampling : Sampling{});
  const double uniform = randomUniform(sampling.seed, sampling.draw);
  const int32_t token =
      penalties.empty() ? choices.draw(uniform) : drawPenalised(logits, vocab, sampling, penalties, uniform);
  return {token, logits[token] - choices.logSum, choices.entropy};
}

Sampled sampleFinite(const float* logits, int64_t vocab, const Sampling& sampling,
                     const std::vector<Penalty>& penalties) {
  try {
    return sampleToken(logits, vocab, sampling, penalties);
  } catch (const Error& error) {
    if (error.code != code::numeric) throw;
    return {-1, 0, 0};
  }
}

}  // namespace flrc
