// kernels/sample.h against fp64: which tokens the filters leave, and which of them a draw falls on.

#include "kernels/sample.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "check.h"
#include "core/random.h"
#include "test/sampling.h"

using namespace flrc::gpu;
using test::Array;
using test::Device;
using test::SamplingMemory;

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

// A row of logits that has been kept, and what came of it.
struct KeptLogits {
  explicit KeptLogits(const std::vector<float>& values) : from(values), to(values.size()) {}

  LikeliestParams::Row row() { return {from.read(), to.global(), likeliest.global(), sampled.global()}; }
  SampleParams::Row drawing(const SamplingRow& how) {
    return {to.read(), likeliest.read(), drawn.global(), how};
  }

  Array<float> from, to;
  Array<Likeliest> likeliest{size_t{1}};
  Array<SampledRow> sampled{size_t{1}}, drawn{size_t{1}};
};

using Rows = std::vector<std::unique_ptr<KeptLogits>>;

Rows rowsOf(const std::vector<std::vector<float>>& logits) {
  Rows rows;
  for (const std::vector<float>& values : logits) rows.push_back(std::make_unique<KeptLogits>(values));
  return rows;
}

void keep(Device& device, SamplingMemory& memory, const Rows& rows) {
  std::vector<LikeliestParams::Row> kept;
  for (const auto& row : rows) kept.push_back(row->row());
  launchLikeliest(device.stream(), memory.likeliest(kept), static_cast<int>(rows.size()), true);
}

void draw(Device& device, SamplingMemory& memory, const std::vector<SampleParams::Row>& rows,
          int multiprocessors) {
  launchSample(device.stream(), memory.sample(rows), static_cast<int>(rows.size()), multiprocessors);
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

// `multiprocessors`: those that launches are made for, fewer than chips have where a block is to go through
// several chunks of a row.
void checkDraws(const std::vector<float>& logits, SamplingRow sampling, uint64_t seed,
                int multiprocessors = 4) {
  const auto vocab = static_cast<int>(logits.size());
  Device device(seed);
  SamplingMemory memory(vocab);
  const Rows rows = rowsOf({logits});
  keep(device, memory, rows);
  const Distribution all(logits);
  const std::vector<int> left = kept(logits, all.probability, sampling);
  for (uint64_t d = 0; d < 6; ++d) {
    sampling.seed = seed;
    sampling.draw = d;
    draw(device, memory, {rows[0]->drawing(sampling)}, multiprocessors);
    device.synchronise();
    const SampledRow got = rows[0]->drawn.at(0);
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
    SamplingMemory memory(vocab);
    std::vector<std::vector<float>> logits;
    for (int r = 0; r < kRows; ++r) {
      logits.push_back(random.floats(vocab));
      for (float& logit : logits.back()) logit *= 3;
      // Of equals the first one.
      if (r == 2) logits.back()[1] = logits.back().back() = 20;
    }
    const Rows rows = rowsOf(logits);
    // Twice: the counters are left as they were found.
    for (int i = 0; i < 2; ++i) keep(device, memory, rows);
    device.synchronise();
    for (size_t r = 0; r < kRows; ++r) {
      const SampledRow got = rows[r]->sampled.at(0);
      CHECK_EQUAL(got.token, ranked(logits[r]).front());
      checkSampled(got, logits[r], Distribution(logits[r]));
      CHECK(rows[r]->to.download() == logits[r]);
      const Rows alone = rowsOf({logits[r]});
      keep(device, memory, alone);
      device.synchronise();
      CHECK_EQUAL(alone[0]->sampled.at(0).logprob, got.logprob);
      CHECK_EQUAL(alone[0]->sampled.at(0).entropy, got.entropy);
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

TEST("sample: rows of one launch draw what each draws alone, on any number of blocks") {
  // Chunks of a row to a block: one, several and all of them.
  constexpr int kVocab = 9001, kRows = 5;
  const std::vector<SamplingRow> how = {{0.8f, 0, 1, 0, 3, 0},
                                        {1.1f, 700, 1, 0, 3, 1},
                                        {0.9f, 0, 0.9f, 0, 3, 2},
                                        {1, 300, 0.8f, 0.01f, 3, 3},
                                        {1.5f, 0, 1, 0.1f, 3, 4}};
  check::Random random(21);
  std::vector<std::vector<float>> logits;
  for (int r = 0; r < kRows; ++r) {
    logits.push_back(random.floats(kVocab));
    // Many ties, so that their order decides.
    for (float& logit : logits.back()) logit = r % 2 ? std::round(2 * logit) : 3 * logit;
  }
  std::vector<SampledRow> expected;
  for (size_t r = 0; r < kRows; ++r) {
    Device device(r);
    SamplingMemory memory(kVocab);
    const Rows rows = rowsOf({logits[r]});
    keep(device, memory, rows);
    draw(device, memory, {rows[0]->drawing(how[r])}, 4);
    device.synchronise();
    expected.push_back(rows[0]->drawn.at(0));
  }
  for (const int multiprocessors : {1, 3, 20}) {
    Device device(static_cast<uint64_t>(multiprocessors));
    SamplingMemory memory(kVocab);
    const Rows rows = rowsOf(logits);
    keep(device, memory, rows);
    std::vector<SampleParams::Row> draws;
    for (size_t r = 0; r < kRows; ++r) draws.push_back(rows[r]->drawing(how[r]));
    // The second time in other places: bins and barriers are left as they were found.
    for (int i = 0; i < 2; ++i) {
      draw(device, memory, draws, multiprocessors);
      device.synchronise();
      for (size_t r = 0; r < kRows; ++r) {
        const SampledRow got = rows[r]->drawn.at(0);
        CHECK_EQUAL(got.token, expected[r].token);
        CHECK_EQUAL(got.logprob, expected[r].logprob);
        CHECK_EQUAL(got.entropy, expected[r].entropy);
      }
      std::reverse(draws.begin(), draws.end());
    }
  }
}

TEST("sample: blocks that go through several chunks filter and draw what they should") {
  uint64_t seed = 200;
  check::Random random(22);
  std::vector<float> logits = random.floats(12301);
  for (float& logit : logits) logit = std::round(6 * logit) / 2;
  // Seven chunks for four blocks.
  for (const SamplingRow& one : {SamplingRow{0.8f, 0, 1, 0, 0, 0}, SamplingRow{1, 900, 0.7f, 0, 0, 0}}) {
    checkDraws(logits, one, ++seed, 1);
  }
}

TEST("sample: a logit that is not finite is told, and keeps no other row from being drawn") {
  for (const float bad : {HUGE_VALF, -HUGE_VALF, NAN}) {
    const std::vector<float> good(4100, 1.0f);
    std::vector<float> logits = good;
    logits[37] = bad;
    Device device(1);
    SamplingMemory memory(4100);
    const Rows rows = rowsOf({logits, good, logits});
    keep(device, memory, rows);
    const SamplingRow how = {1, 0, 0.5f, 0, 0, 0};
    draw(device, memory, {rows[0]->drawing(how), rows[1]->drawing(how), rows[2]->drawing(how)}, 4);
    device.synchronise();
    for (const size_t r : {0, 2}) {
      CHECK_EQUAL(rows[r]->sampled.at(0).token, -1);
      CHECK_EQUAL(rows[r]->drawn.at(0).token, -1);
    }
    CHECK_AT_MOST(0, rows[1]->drawn.at(0).token);
    checkSampled(rows[1]->drawn.at(0), good, Distribution(good));
  }
}
