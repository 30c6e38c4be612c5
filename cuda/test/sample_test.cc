// kernels/sample.h against fp64: which tokens the filters leave, and which of them a draw falls on.

#include "kernels/sample.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "check.h"
#include "core/random.h"
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

// What launches of kernels/sample.h share.
struct Work {
  explicit Work(int vocab)
      : parts(static_cast<size_t>(kLikeliestRows * logitsChunks(vocab))),
        weights(static_cast<size_t>(logitsChunks(vocab))),
        ties(weights.download().size()) {}

  Array<LikeliestPart> parts;
  Array<uint64_t> weights, ties;
  Array<uint32_t> counters{std::vector<uint32_t>(kLikeliestRows)}, counter{std::vector<uint32_t>(1)},
      counts{std::vector<uint32_t>(kSelectRounds * kSelectBins)};
  Array<uint64_t> masses{std::vector<uint64_t>(kSelectRounds * kSelectBins)};
};

// A row of logits that has been kept, and what came of it.
struct KeptLogits {
  explicit KeptLogits(const std::vector<float>& values) : from(values), to(values.size()) {}

  LikeliestParams::Row row() { return {from.read(), to.global(), likeliest.global(), sampled.global()}; }

  Array<float> from, to;
  Array<Likeliest> likeliest{size_t{1}};
  Array<SampledRow> sampled{size_t{1}};
};

void keep(Device& device, Work& work, const std::vector<KeptLogits*>& rows, int vocab) {
  LikeliestParams params{};
  for (size_t r = 0; r < rows.size(); ++r) params.rows[r] = rows[r]->row();
  params.vocab = vocab;
  params.parts = work.parts.global();
  params.counters = work.counters.global();
  launchLikeliest(device.stream(), params, static_cast<int>(rows.size()), true);
}

void draw(Device& device, Work& work, KeptLogits& kept, int vocab, const SamplingRow& sampling,
          Array<SampledRow>& to) {
  launchSample(device.stream(),
               {kept.to.read(), vocab, sampling, kept.likeliest.read(), to.global(), work.masses.global(),
                work.counts.global(), work.weights.global(), work.ties.global(), work.counter.global()});
}

struct Distribution {
  explicit Distribution(const std::vector<float>& logits)
      : top(static_cast<double>(*std::max_element(logits.begin(), logits.end()))) {
    double weighted = 0;
    for (const float logit : logits) {
      const double shifted = static_cast<double>(logit) - top;
      probability.push_back(std::exp(shifted));
      sum += probability.back();
      weighted += probability.back() * shifted;
    }
    for (double& p : probability) p /= sum;
    entropy = std::log(sum) - weighted / sum;
  }

  double top, sum = 0, entropy = 0;
  std::vector<double> probability;
};

void checkSampled(const SampledRow& got, const std::vector<float>& logits, const Distribution& all) {
  // expf errs by two units in the last place, differences of logits by half of one.
  CHECK_NEAR(got.logprob,
             static_cast<double>(logits[static_cast<size_t>(got.token)]) - all.top - std::log(all.sum),
             1e-6 * (1 + std::abs(got.logprob)));
  CHECK_NEAR(got.entropy, all.entropy, 1e-5);
}

void checkDraws(const std::vector<float>& logits, SamplingRow sampling, uint64_t seed) {
  const auto vocab = static_cast<int>(logits.size());
  Device device(seed);
  Work work(vocab);
  KeptLogits row(logits);
  keep(device, work, {&row}, vocab);
  const Distribution all(logits);
  const std::vector<int> left = kept(logits, all.probability, sampling);
  for (uint64_t d = 0; d < 6; ++d) {
    sampling.seed = seed;
    sampling.draw = d;
    Array<SampledRow> out(size_t{1});
    draw(device, work, row, vocab, sampling, out);
    device.synchronise();
    const SampledRow got = out.at(0);
    checkSampled(got, logits, all);
    CHECK(std::find(left.begin(), left.end(), got.token) != left.end());
    double total = 0, before = 0, own = 0;
    for (const int token : left) {
      const double weight = std::exp((static_cast<double>(logits[static_cast<size_t>(token)]) - all.top) /
                                     static_cast<double>(sampling.temperature));
      total += weight;
      if (token < got.token) before += weight;
      if (token == got.token) own = weight;
    }
    const double uniform = flrc::randomUniform(seed, d);
    CHECK_AT_MOST(before / total - 1e-6, uniform);
    CHECK_AT_MOST(uniform, (before + own) / total + 1e-6);
  }
}

}  // namespace

TEST("sample: the likeliest token of several rows, and the same bits for each alone") {
  for (const int vocab : {40, 2048, 2049, 5003, 8200}) {
    constexpr int kRows = 3;
    check::Random random(static_cast<uint64_t>(vocab));
    Device device(static_cast<uint64_t>(vocab));
    Work work(vocab);
    std::vector<std::vector<float>> logits;
    std::vector<std::unique_ptr<KeptLogits>> rows;
    std::vector<KeptLogits*> pointers;
    for (int r = 0; r < kRows; ++r) {
      logits.push_back(random.floats(vocab));
      for (float& logit : logits.back()) logit *= 3;
      // Of equals the first one.
      if (r == 2) logits.back()[1] = logits.back().back() = 20;
      rows.push_back(std::make_unique<KeptLogits>(logits.back()));
      pointers.push_back(rows.back().get());
    }
    // Twice: the counters are left as they were found.
    for (int i = 0; i < 2; ++i) keep(device, work, pointers, vocab);
    device.synchronise();
    for (size_t r = 0; r < kRows; ++r) {
      const SampledRow got = rows[r]->sampled.at(0);
      CHECK_EQUAL(got.token, ranked(logits[r]).front());
      checkSampled(got, logits[r], Distribution(logits[r]));
      CHECK(rows[r]->to.download() == logits[r]);
      KeptLogits alone(logits[r]);
      keep(device, work, {&alone}, vocab);
      device.synchronise();
      CHECK_EQUAL(alone.sampled.at(0).logprob, got.logprob);
      CHECK_EQUAL(alone.sampled.at(0).entropy, got.entropy);
    }
  }
}

TEST("sample: top-k, top-p, min-p and temperature leave and draw what they should") {
  uint64_t seed = 0;
  for (const int vocab : {40, 2052, 5003}) {
    check::Random random(static_cast<uint64_t>(vocab));
    std::vector<float> logits = random.floats(vocab);
    for (float& logit : logits) logit *= 3;
    for (const SamplingRow& one :
         {SamplingRow{1, 0, 1, 0, 0, 0}, SamplingRow{0.7f, 5, 1, 0, 0, 0}, SamplingRow{1.3f, 0, 0.8f, 0, 0, 0},
          SamplingRow{1, 20, 0.6f, 0.05f, 0, 0}, SamplingRow{0.9f, 5000, 0.95f, 0, 0, 0},
          SamplingRow{1, 0, 0.01f, 0, 0, 0}, SamplingRow{1, 0, 1, 0.2f, 0, 0}}) {
      checkDraws(logits, one, ++seed);
    }
  }
}

TEST("sample: of equal logits the first ids are kept") {
  check::Random random(11);
  std::vector<float> logits;
  for (int i = 0; i < 4500; ++i) logits.push_back(static_cast<float>(random.below(4)) - 2);
  uint64_t seed = 100;
  for (const SamplingRow& one :
       {SamplingRow{1, 7, 1, 0, 0, 0}, SamplingRow{1, 2250, 1, 0, 0, 0}, SamplingRow{1, 2250, 0.5f, 0, 0, 0}}) {
    checkDraws(logits, one, ++seed);
  }
}

TEST("sample: a logit that is not finite is told") {
  for (const float bad : {HUGE_VALF, -HUGE_VALF, NAN}) {
    std::vector<float> logits(4100, 1.0f);
    logits[37] = bad;
    Device device(1);
    Work work(4100);
    KeptLogits row(logits);
    Array<SampledRow> out(size_t{1});
    keep(device, work, {&row}, 4100);
    draw(device, work, row, 4100, {1, 0, 1, 0, 0, 0}, out);
    device.synchronise();
    CHECK_EQUAL(row.sampled.at(0).token, -1);
    CHECK_EQUAL(out.at(0).token, -1);
  }
}
