// Rotation against fp64, and models that turn a part of each head.
#include "model/rope.h"

#include <cmath>
#include <memory>

#include "calibrate/calibrate.h"
#include "check.h"
#include "fixture.h"
#include "model/session.h"
#include "temporary.h"

using flrc::Job;
using flrc::ModelConfig;
using flrc::RopeTable;
using flrc::Session;

TEST("rope: any number of pairs of a head is turned as fp64 has it, the rest stays, and back") {
  constexpr int64_t kHeads = 3, kPosition = 37;
  for (const auto& [headDim, pairs] : {std::pair{8, 4}, {64, 32}, {64, 8}, {96, 36}, {10, 1}}) {
    check::Random random(static_cast<uint64_t>(pairs));
    ModelConfig config;
    config.headDim = headDim;
    // Another one besides, which is not asked for.
    config.ropes = {{{1.0}}, {{}, 1.25f}};
    std::vector<double>& frequencies = config.ropes[1].frequencies;
    for (int i = 0; i < pairs; ++i) frequencies.push_back(std::pow(0.3, i));
    RopeTable table;
    table.grow(config, 5);
    table.grow(config, kPosition + 1);
    for (const bool back : {false, true}) {
      const std::vector<float> x = random.floats(kHeads * headDim);
      std::vector<float> y = x;
      table.rotate(-1, y.data(), kHeads, kPosition, back);
      CHECK(y == x);
      table.rotate(1, y.data(), kHeads, kPosition, back);
      for (int64_t h = 0; h < kHeads; ++h) {
        const float *from = x.data() + h * headDim, *to = y.data() + h * headDim;
        for (int i = 0; i < pairs; ++i) {
          const double angle = (back ? -kPosition : kPosition) * frequencies[static_cast<size_t>(i)];
          const double c = 1.25 * std::cos(angle), s = 1.25 * std::sin(angle);
          const double a = static_cast<double>(from[i]), b = static_cast<double>(from[i + pairs]);
          const double tolerance = 4 * 0x1p-24 * 1.25 * (std::abs(a) + std::abs(b));
          CHECK_NEAR(to[i], a * c - b * s, tolerance);
          CHECK_NEAR(to[i + pairs], b * c + a * s, tolerance);
        }
        for (int i = 2 * pairs; i < headDim; ++i) CHECK_EQUAL(to[i], from[i]);
      }
    }
  }
}

namespace {

// One pair of dimensions of each head is turned: 0 and 1 as the file has them. `whole`: the same model with its
// rows in another order, in which all pairs are turned, the others by nothing.
std::shared_ptr<const flrc::Model> onePair(bool whole) {
  flrc::ModelSpec spec = fixture::spec("llama", 2);
  std::vector<double>& frequencies = spec.config.ropes.front().frequencies;
  frequencies = {0.7};
  if (whole) {
    frequencies.resize(static_cast<size_t>(spec.config.headDim / 2));
    for (flrc::TensorSource& source : spec.tensors) {
      if (source.name.find("q_proj") != std::string::npos) source.interleavedHeads = spec.config.heads;
      if (source.name.find("k_proj") != std::string::npos) source.interleavedHeads = spec.config.kvHeads;
    }
  }
  return flrc::loadModel(spec, Job());
}

}  // namespace

TEST("rope: a model that turns a part of each head decodes, reads prompts and calibrates like its reordering") {
  const fixture::Fixture of = fixture::load("llama", 2);
  const auto part = onePair(false), whole = onePair(true);
  Session steps(part), prompt(part), expected(whole);
  for (int64_t t = 0; t < of.length; ++t) steps.append(of.tokens.data() + t, 1, 0, Job());
  prompt.append(of.tokens.data(), of.length, 0, Job());
  expected.append(of.tokens.data(), of.length, 0, Job());
  for (size_t v = 0; v < static_cast<size_t>(part->config.vocab); ++v) {
    CHECK_NEAR(steps.logits()[v], expected.logits()[v], 1e-4);
    CHECK_NEAR(prompt.logits()[v], expected.logits()[v], 1e-4);
  }

  flrc::CalibrationOptions options;
  options.tokens = of.tokens;
  options.lengths.assign(static_cast<size_t>(of.sequences), static_cast<int32_t>(of.length));
  options.labels = flrc::Labels::data;
  options.memory = 1 << 30;
  options.scratch = temporary::folder();
  const auto got = flrc::calibrate(part, options, Job()), want = flrc::calibrate(whole, options, Job());
  for (size_t i = 0; i < got->scores.size(); ++i) {
    CHECK_NEAR(got->scores[i].weighted, want->scores[i].weighted, 1e-4 * want->scores[i].weighted);
    CHECK_NEAR(got->scores[i].gradient, want->scores[i].gradient, 1e-4 * want->scores[i].gradient);
  }
}
