// kernels/sample.h against fp64: which tokens the filters leave, and which of them a draw falls on.

#include "kernels/sample.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "check.h"
#include "core/random.h"
#include "test/caches.h"
#include "test/device.h"

using namespace flrc::gpu;
using test::Array;
using test::Device;

namespace {

// By likelihood, of equals by id.
std::vector<int> ranked(const std::vector<float>& logits) {
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  return order;
}

// The tokens left by the filters in model/sampler.cc's order.
std::vector<int> kept(const std::vector<float>& logits, const std::vector<double>& probability,
                      const SamplingRow& s) {
  std::vector<int> order = ranked(logits);
  if (s.topK > 0) order.resize(std::min(order.size(), static_cast<size_t>(s.topK)));
  if (s.topP < 1) {
    double total = 0, sum = 0;
    for (const int token : order) total += probability[static_cast<size_t>(token)];
    size_t n = 0;
    while (n < order.size() && (n == 0 || sum < static_cast<double>(s.topP) * total)) {
      sum += probability[static_cast<size_t>(order[n++])];
    }
    order.resize(n);
  }
  const double least = static_cast<double>(s.minP) * probability[static_cast<size_t>(order.front())];
  while (order.size() > 1 && probability[static_cast<size_t>(order.back())] < least) order.pop_back();
  return order;
}

void checkDraws(const std::vector<float>& logits, const SamplingRow& sampling, uint64_t seed) {
  constexpr int kRows = 6;
  std::vector<float> all;
  std::vector<SamplingRow> rows;
  for (int r = 0; r < kRows; ++r) {
    all.insert(all.end(), logits.begin(), logits.end());
    rows.push_back(sampling);
    rows.back().seed = seed;
    rows.back().draw = static_cast<uint64_t>(r);
  }
  Array<float> in(all);
  Array<SamplingRow> state(rows);
  Array<SampledRow> out(kRows);
  Array<int32_t> tokens(kRows);
  test::Caches caches(1, 8, 4, {0, 1, 2, 3, 4, 5});
  Device device(seed);
  launchSample(device.stream(),
               {in.read(), static_cast<int>(logits.size()), state.global(), out.global(), tokens.global(),
                caches.mutableRows()},
               kRows, true);
  device.synchronise();

  const double top = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0, weighted = 0;
  std::vector<double> probability;
  for (const float logit : logits) {
    const double shifted = static_cast<double>(logit) - top;
    probability.push_back(std::exp(shifted));
    sum += probability.back();
    weighted += probability.back() * shifted;
  }
  for (double& p : probability) p /= sum;
  const std::vector<int> left = kept(logits, probability, sampling);
  for (int r = 0; r < kRows; ++r) {
    const SampledRow got = out.at(static_cast<size_t>(r));
    // expf errs by two units in the last place, differences of logits by half of one.
    CHECK_NEAR(got.logprob, static_cast<double>(logits[static_cast<size_t>(got.token)]) - top - std::log(sum),
               1e-6 * (1 + std::abs(got.logprob)));
    CHECK_NEAR(got.entropy, std::log(sum) - weighted / sum, 1e-5);
    CHECK_EQUAL(tokens.at(static_cast<size_t>(r)), got.token);
    CHECK_EQUAL(caches.currentPositions()[static_cast<size_t>(r)], r + 1);
    CHECK_EQUAL(state.at(static_cast<size_t>(r)).draw, static_cast<uint64_t>(r + 1));
    if (sampling.temperature == 0) {
      CHECK_EQUAL(got.token, left.front());
      continue;
    }
    CHECK(std::find(left.begin(), left.end(), got.token) != left.end());
    double total = 0, before = 0, own = 0;
    for (const int token : left) {
      const double weight = std::exp((static_cast<double>(logits[static_cast<size_t>(token)]) - top) /
                                     static_cast<double>(sampling.temperature));
      total += weight;
      if (token < got.token) before += weight;
      if (token == got.token) own = weight;
    }
    const double uniform = flrc::randomUniform(seed, static_cast<uint64_t>(r));
    CHECK_AT_MOST(before / total - 1e-6, uniform);
    CHECK_AT_MOST(uniform, (before + own) / total + 1e-6);
  }
}

}  // namespace

TEST("sample: greedy, top-k, top-p, min-p and temperature leave and draw what they should") {
  uint64_t seed = 0;
  for (const int vocab : {40, 513, 3000}) {
    check::Random random(static_cast<uint64_t>(vocab));
    std::vector<float> logits = random.floats(vocab);
    for (float& logit : logits) logit *= 3;
    for (const SamplingRow& one :
         {SamplingRow{0, 0, 1, 0, 0, 0}, SamplingRow{1, 0, 1, 0, 0, 0}, SamplingRow{0.7f, 5, 1, 0, 0, 0},
          SamplingRow{1.3f, 0, 0.8f, 0, 0, 0}, SamplingRow{1, 20, 0.6f, 0.05f, 0, 0},
          SamplingRow{0.9f, 5000, 0.95f, 0, 0, 0}, SamplingRow{1, 0, 0.01f, 0, 0, 0},
          SamplingRow{1, 0, 1, 0.2f, 0, 0}}) {
      checkDraws(logits, one, ++seed);
    }
  }
}

TEST("sample: of equal logits the first ids are kept") {
  check::Random random(11);
  std::vector<float> logits;
  for (int i = 0; i < 700; ++i) logits.push_back(static_cast<float>(random.below(4)) - 2);
  uint64_t seed = 100;
  for (const SamplingRow& one : {SamplingRow{0, 0, 1, 0, 0, 0}, SamplingRow{1, 7, 1, 0, 0, 0},
                                 SamplingRow{1, 250, 1, 0, 0, 0}, SamplingRow{1, 250, 0.5f, 0, 0, 0}}) {
    checkDraws(logits, one, ++seed);
  }
}

TEST("sample: a logit that is not finite is told") {
  for (const float bad : {HUGE_VALF, -HUGE_VALF, NAN}) {
    std::vector<float> logits(100, 1.0f);
    logits[37] = bad;
    Array<float> in(logits);
    Array<SamplingRow> state(std::vector<SamplingRow>{{1, 0, 1, 0, 0, 0}});
    Array<SampledRow> out(size_t{1});
    Device device(1);
    launchSample(device.stream(), {in.read(), 100, state.global(), out.global(), nullptr, nullptr}, 1, true);
    device.synchronise();
    CHECK_EQUAL(out.at(0).token, -1);
  }
}
