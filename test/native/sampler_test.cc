#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "check.h"

using flrc::sampleToken;
using flrc::Sampling;

namespace {

const std::vector<float> kLogits = {1.0f, 3.0f, 2.0f, 0.0f, -1.0f, 2.5f};

double probability(size_t token, double temperature = 1) {
  double total = 0;
  for (float logit : kLogits) total += std::exp(logit / temperature);
  return std::exp(kLogits[token] / temperature) / total;
}

std::map<int32_t, int> counts(Sampling sampling, int draws) {
  std::map<int32_t, int> seen;
  for (int i = 0; i < draws; ++i) {
    sampling.draw = static_cast<uint64_t>(i);
    ++seen[sampleToken(kLogits.data(), static_cast<int64_t>(kLogits.size()), sampling).token];
  }
  return seen;
}

}  // namespace

TEST("sampler: greedy takes the likeliest token, the lowest id of equals") {
  const auto best = sampleToken(kLogits.data(), 6, {});
  CHECK_EQUAL(best.token, 1);
  CHECK_NEAR(best.logprob, std::log(probability(1)), 1e-12);
  double entropy = 0;
  for (size_t i = 0; i < kLogits.size(); ++i) entropy -= probability(i) * std::log(probability(i));
  CHECK_NEAR(best.entropy, entropy, 1e-9);
  const float equal[] = {0, 5, 5, 5};
  CHECK_EQUAL(sampleToken(equal, 4, {}).token, 1);
}

TEST("sampler: frequencies follow the tempered distribution (chi-square)") {
  for (double temperature : {1.0, 0.5, 2.0}) {
    Sampling sampling;
    sampling.temperature = temperature;
    sampling.seed = 5;
    constexpr int kDraws = 20000;
    const auto seen = counts(sampling, kDraws);
    double chiSquare = 0;
    for (size_t i = 0; i < kLogits.size(); ++i) {
      const double expected = kDraws * probability(i, temperature);
      const auto at = seen.find(static_cast<int32_t>(i));
      chiSquare += std::pow((at == seen.end() ? 0 : at->second) - expected, 2) / expected;
    }
    CHECK_AT_MOST(chiSquare, 20.5);  // 5 degrees of freedom, p = .001; the draws are fixed by the seed
  }
}

TEST("sampler: top-k, top-p and min-p keep just the tokens they should") {
  Sampling sampling;
  sampling.temperature = 1;
  sampling.topK = 2;
  for (const auto& [token, count] : counts(sampling, 500)) CHECK(token == 1 || token == 5);
  sampling.topK = 0;
  sampling.topP = probability(1) + 0.01;  // the likeliest alone falls just short
  CHECK_EQUAL(counts(sampling, 500).size(), size_t{2});
  sampling.topP = 1e-9;  // never fewer than one
  CHECK_EQUAL(counts(sampling, 100).size(), size_t{1});
  sampling.topP = 1;
  sampling.minP = std::exp(-1.01);  // within 1.01 nats of the best: 3, 2.5 and 2
  CHECK_EQUAL(counts(sampling, 500).size(), size_t{3});
  sampling.topK = 1000;
  sampling.minP = 0;
  CHECK_EQUAL(counts(sampling, 2000).size(), kLogits.size());
}

TEST("sampler: the least top-p leaves a token of equally likely ones, however their sum is rounded") {
  Sampling sampling;
  sampling.temperature = 1;
  sampling.topP = std::numeric_limits<double>::min();
  for (int64_t vocab = 2; vocab < 500; ++vocab) {
    const std::vector<float> equal(static_cast<size_t>(vocab), 5.3f);
    CHECK_EQUAL(sampleToken(equal.data(), vocab, sampling).token, 0);
  }
}

TEST("sampler: top-p sets aside unlikely tokens before it sorts, and keeps the very same ones") {
  check::Random random(4);
  for (double topP : {0.2, 0.9, 0.95, 0.999, 1 - 1e-9}) {
    std::vector<float> logits(3000);
    for (float& logit : logits) logit = static_cast<float>(3 * random.normal());
    std::vector<double> sorted;
    double total = 0, kept = 0;
    for (float logit : logits) total += std::exp(logit);
    for (float logit : logits) sorted.push_back(std::exp(logit) / total);
    std::sort(sorted.rbegin(), sorted.rend());
    size_t count = 0;
    while (kept < topP) kept += sorted[count++];
    Sampling sampling;
    sampling.temperature = 1e6;  // the tokens kept are all but equally likely
    sampling.topP = topP;
    double least = 1;
    for (uint64_t draw = 0; draw < 20000; ++draw) {
      sampling.draw = draw;
      const auto token = static_cast<size_t>(sampleToken(logits.data(), 3000, sampling).token);
      least = std::min(least, std::exp(logits[token]) / total);
    }
    // 20000 draws of at most 3000 see each of the five least likely kept with certainty, for practical ends.
    CHECK(least >= sorted[count - 1] * (1 - 1e-9));
    CHECK(least <= sorted[count - std::min<size_t>(count, 5)] * (1 + 1e-9));
  }
}

TEST(
    "sampler: a penalty divides a logit above zero, multiplies another and takes its offset, before filters "
    "alone") {
  const std::vector<flrc::Penalty> penalties = {{1, 2.0f, 0.25f}, {4, 2.0f, 0.0f}, {3, 1.0f, -2.75f}};
  const std::vector<float> changed = {1.0f, 1.25f, 2.0f, 2.75f, -2.0f, 2.5f};
  Sampling sampling;
  sampling.seed = 3;
  for (int64_t topK : {0, 3}) {
    for (double temperature : {0.0, 0.7, 3.0}) {
      sampling.temperature = temperature;
      sampling.topK = topK;
      for (uint64_t draw = 0; draw < 300; ++draw) {
        sampling.draw = draw;
        const auto sampled = sampleToken(kLogits.data(), 6, sampling, penalties);
        CHECK_EQUAL(sampled.token, sampleToken(changed.data(), 6, sampling).token);
        CHECK_NEAR(sampled.logprob, std::log(probability(static_cast<size_t>(sampled.token))), 1e-12);
        CHECK_EQUAL(sampled.entropy, sampleToken(kLogits.data(), 6, {}).entropy);
      }
    }
  }
}

TEST("sampler: the likeliest tokens are those that sorting all gives") {
  using flrc::likeliestTokens;
  const std::vector<float> logits = {1, 3, -2, 3, 0.5f, 2};
  const std::vector<int32_t> order = {1, 3, 5, 0, 4, 2};
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  for (const int64_t count : {0, 1, 2, 5, 6, 9}) {
    const auto found = likeliestTokens(logits.data(), 6, count);
    CHECK_EQUAL(found.size(), static_cast<size_t>(std::min<int64_t>(count, 6)));
    for (size_t i = 0; i < found.size(); ++i) {
      CHECK_EQUAL(found[i].token, order[i]);
      CHECK_NEAR(found[i].logprob, logits[static_cast<size_t>(order[i])] - std::log(sum), 1e-6);
    }
  }
  std::vector<float> bad = logits;
  bad[4] = std::nanf("");
  CHECK_THROWS("E_NUMERIC", likeliestTokens(bad.data(), 6, 2));
}

TEST("sampler: a draw depends on seed and draw number alone") {
  Sampling sampling;
  sampling.temperature = 1;
  sampling.seed = 9;
  sampling.draw = 3;
  const int32_t token = sampleToken(kLogits.data(), 6, sampling).token;
  counts(sampling, 50);
  CHECK_EQUAL(sampleToken(kLogits.data(), 6, sampling).token, token);
}

TEST("sampler: a logit that is not finite is an error") {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto logits = kLogits;
    logits[2] = bad;
    CHECK_THROWS("E_NUMERIC", sampleToken(logits.data(), 6, {}));
    CHECK_THROWS("E_NUMERIC", sampleToken(logits.data(), 6, {}, {{1, 2, 0}}));
    CHECK_EQUAL(flrc::sampleFinite(logits.data(), 6, {}, {{1, 2, 0}}).token, -1);
  }
}
