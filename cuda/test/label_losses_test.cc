// kernels/label_losses.h against fp64, and rows alone against rows among others.

#include "kernels/label_losses.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "check.h"
#include "core/random.h"
#include "test/device.h"

using namespace flrc::gpu;
using test::Array;
using test::Device;

namespace {

constexpr double kUlp = 0x1p-24;
constexpr uint64_t kSeed = 11, kFirstDraw = 300;

struct Losses {
  std::vector<float> gradient;
  std::vector<double> losses;
  double total = 0;
};

Losses run(const std::vector<float>& logits, const std::vector<int32_t>& next, int vocab, bool gradient,
           bool drawn, uint64_t firstDraw = kFirstDraw) {
  const size_t rows = next.size();
  Array<float> values(logits);
  Array<int32_t> labels(next);
  Array<double> losses(rows), total(std::vector<double>{0.5});
  Device device(rows);
  launchLabelLosses(device.stream(), {values.global(), static_cast<int>(rows), vocab, labels.read(), gradient,
                                      drawn, kSeed, firstDraw, losses.global(), total.global()});
  device.synchronise();
  return {values.download(), losses.download(), total.at(0)};
}

// A row's softmax in fp64.
struct Softmax {
  std::vector<double> probability;
  double logSum = 0, spread = 0;

  Softmax(const float* row, int vocab) {
    const double most = static_cast<double>(*std::max_element(row, row + vocab));
    double sum = 0;
    for (int i = 0; i < vocab; ++i) {
      const double below = most - static_cast<double>(row[i]);
      probability.push_back(std::exp(-below));
      sum += probability.back();
      if (below < 100) spread = std::max(spread, below);
    }
    for (double& one : probability) one /= sum;
    logSum = most + std::log(sum);
  }
  // Of each term's exponent, which is rounded, and of expf.
  double relative() const { return (spread + 8) * kUlp; }
};

std::vector<float> logitsOf(check::Random& random, int64_t count) {
  std::vector<float> logits = random.floats(count);
  for (float& one : logits) one *= 6;
  return logits;
}

}  // namespace

TEST("label losses: of any vocabulary, and gradients against given labels") {
  for (const int vocab : {1, 5, 256, 1003, 8708}) {
    constexpr int kRows = 4;
    check::Random random(static_cast<uint64_t>(vocab));
    std::vector<float> logits = logitsOf(random, int64_t{kRows} * vocab);
    // Of no probability, before and within a lane's octet; another row nearly certain.
    for (int i = 0; i < std::min(vocab - 1, 300); ++i) logits[static_cast<size_t>(i)] = -HUGE_VALF;
    logits[static_cast<size_t>(vocab)] = 80;
    const std::vector<int32_t> next = {vocab - 1, vocab / 2, -1, 0};
    const Losses got = run(logits, next, vocab, true, false), only = run(logits, next, vocab, false, false);
    CHECK(only.losses == got.losses);
    CHECK(only.gradient == logits);
    CHECK_EQUAL(got.total, 0.5 + ((got.losses[0] + got.losses[2]) + (got.losses[1] + got.losses[3])));
    for (size_t r = 0; r < kRows; ++r) {
      const size_t first = r * static_cast<size_t>(vocab);
      if (next[r] < 0) {
        CHECK_EQUAL(got.losses[r], 0.0);
        for (size_t i = 0; i < static_cast<size_t>(vocab); ++i) CHECK_EQUAL(got.gradient[first + i], 0.0f);
        continue;
      }
      const Softmax expected(logits.data() + first, vocab);
      const auto label = static_cast<size_t>(next[r]);
      CHECK_NEAR(got.losses[r], expected.logSum - static_cast<double>(logits[first + label]),
                 expected.relative());
      for (size_t i = 0; i < static_cast<size_t>(vocab); ++i) {
        CHECK_NEAR(got.gradient[first + i], expected.probability[i] - (i == label ? 1 : 0),
                   2 * expected.relative() * expected.probability[i] + (i == label ? kUlp : 1e-37));
      }
      const Losses alone = run(
          {logits.begin() + static_cast<int64_t>(first), logits.begin() + static_cast<int64_t>(first) + vocab},
          {next[r]}, vocab, true, false);
      CHECK_EQUAL(alone.losses[0], got.losses[r]);
      CHECK(std::equal(alone.gradient.begin(), alone.gradient.end(),
                       got.gradient.begin() + static_cast<int64_t>(first)));
    }
  }
}

TEST("label losses: labels are drawn from the rows' own distributions by the seed's uniform numbers") {
  for (const int vocab : {1, 6, 500, 8708}) {
    const int rows = vocab < 1000 ? 40 : 12;
    check::Random random(static_cast<uint64_t>(vocab));
    std::vector<float> logits = logitsOf(random, int64_t{rows} * vocab);
    // One row all but certain of its last.
    logits[static_cast<size_t>(2 * vocab - 1)] = 20;
    const std::vector<int32_t> next(static_cast<size_t>(rows), 0);
    const Losses got = run(logits, next, vocab, true, true), given = run(logits, next, vocab, true, false);
    CHECK(got.losses == given.losses);
    for (int r = 0; r < rows; ++r) {
      const auto first = static_cast<size_t>(r * vocab);
      const Softmax expected(logits.data() + first, vocab);
      const float* gradient = got.gradient.data() + first;
      const auto label = static_cast<int>(std::min_element(gradient, gradient + vocab) - gradient);
      double before = 0, lost = 0;
      for (int i = 0; i < vocab; ++i) {
        const double probability = expected.probability[static_cast<size_t>(i)];
        if (i < label) before += probability;
        lost += std::abs(static_cast<double>(gradient[i]) - probability + (i == label ? 1 : 0));
      }
      CHECK_AT_MOST(lost, 2 * expected.relative() + kUlp + vocab * 1e-37);
      const double uniform = flrc::randomUniform(kSeed, kFirstDraw + static_cast<uint64_t>(r)),
                   tolerance = 2 * expected.relative();
      CHECK_AT_MOST(before - tolerance, uniform);
      CHECK_AT_MOST(uniform, before + expected.probability[static_cast<size_t>(label)] + tolerance);
      const Losses alone = run(
          {logits.begin() + static_cast<int64_t>(first), logits.begin() + static_cast<int64_t>(first) + vocab},
          {0}, vocab, true, true, kFirstDraw + static_cast<uint64_t>(r));
      CHECK(std::equal(alone.gradient.begin(), alone.gradient.end(), gradient));
    }
  }
}

TEST("label losses: what is not finite is seen in the loss and the total") {
  constexpr int kVocab = 700;
  check::Random random(3);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), HUGE_VALF}) {
    for (const bool drawn : {false, true}) {
      std::vector<float> logits = logitsOf(random, 3 * kVocab);
      logits[kVocab + 650] = bad;
      const Losses got = run(logits, {1, 2, 3}, kVocab, true, drawn);
      CHECK(std::isfinite(got.losses[0]) && !std::isfinite(got.losses[1]) && std::isfinite(got.losses[2]));
      CHECK(!std::isfinite(got.total));
    }
  }
  const Losses none = run(std::vector<float>(kVocab, -HUGE_VALF), {1}, kVocab, true, true);
  CHECK(!std::isfinite(none.total));
}
