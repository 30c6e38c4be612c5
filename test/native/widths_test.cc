// Models whose layers' MLPs have different numbers of channels, against models of one number that compute the
// same.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "calibrate/calibrate.h"
#include "calibrate/factorize.h"
#include "check.h"
#include "dropped.h"
#include "fixture.h"
#include "model/session.h"
#include "model/writer.h"
#include "recover/recover.h"
#include "temporary.h"

using flrc::Job;
using flrc::kProjections;

namespace {

// As those of the reference: f32 sums of some tens of terms, in other orders.
constexpr double kLogits = 1e-4;
// Of squares over all tokens.
constexpr double kSums = 1e-3;

// Neither a multiple of what kernels take at once, on both sides of the hidden size 32 and of the whole 48 or
// 40; more layers than two keep all.
std::vector<int64_t> channelsOf(const std::string& name) {
  const flrc::ModelConfig config = fixture::spec(name, 1).config;
  std::vector<int64_t> channels(static_cast<size_t>(config.layers), config.intermediate);
  channels[0] = 37;
  channels[1] = 19;
  return channels;
}

std::vector<int32_t> tokens(int64_t count) {
  std::vector<int32_t> all;
  for (int64_t i = 0; i < count; ++i) all.push_back(static_cast<int32_t>((7 * i + 3) % 96));
  return all;
}

void checkLogits(const flrc::Session& got, const flrc::Session& expected) {
  const std::vector<float> left = got.logits(), right = expected.logits();
  CHECK_EQUAL(left.size(), right.size());
  for (size_t v = 0; v < left.size(); ++v) CHECK_NEAR(left[v], right[v], kLogits);
}

flrc::CalibrationOptions calibration() {
  flrc::CalibrationOptions options;
  options.tokens = tokens(60);
  options.lengths = {20, 25, 15};
  options.labels = flrc::Labels::data;
  options.memory = 1 << 30;
  options.scratch = temporary::folder();
  return options;
}

}  // namespace

TEST("widths: prompts, single tokens and several at once go as with zeros for the channels that are gone") {
  for (const std::string& name : fixture::names()) {
    const Dropped of(name, channelsOf(name), 2);
    const auto narrow = flrc::loadModel(of.narrow, Job()), zeroed = flrc::loadModel(of.zeroed, Job());
    CHECK(narrow->bytes() < zeroed->bytes());
    flrc::Session got(narrow), expected(zeroed);
    for (const int64_t count : {40, 1, 3, 1}) {
      for (flrc::Session* session : {&got, &expected}) session->append(tokens(count).data(), count, 0, Job());
      checkLogits(got, expected);
    }
  }
}

TEST("widths: a layer's tensors must have its own, and there is one for each layer, up to the whole") {
  const Dropped of("llama3-scaled", channelsOf("llama3-scaled"), 1);
  const int64_t whole = of.narrow.config.intermediate;
  const std::vector<std::vector<int64_t>> wrong = {{19, 37}, {whole, whole}, {37}, {37, 19, 19},
                                                   {37, 0},  {37, -1},       {},   {37, whole + 1}};
  for (const std::vector<int64_t>& widths : wrong) {
    flrc::ModelSpec spec = of.narrow;
    spec.config.intermediates = widths;
    CHECK_THROWS(flrc::code::modelFormat, flrc::loadModel(spec, Job()));
  }
  flrc::ModelSpec spec = of.narrow;
  spec.config.intermediate = 36;
  CHECK_THROWS(flrc::code::modelFormat, flrc::loadModel(spec, Job()));
}

TEST("widths: a checkpoint has each layer's shapes, and an export the whole model's") {
  const Dropped of("llama3-scaled", channelsOf("llama3-scaled"), 1);
  const auto narrow = flrc::loadModel(of.narrow, Job()), zeroed = flrc::loadModel(of.zeroed, Job());
  int64_t seen = 0;
  for (const flrc::TensorEntry& entry : flrc::tensorEntries(*narrow, false)) {
    for (int64_t l = 0; l < 2; ++l) {
      if (entry.name != flrc::projectionName(l, flrc::kDown) + ".weight") continue;
      ++seen;
      CHECK(entry.shape == (std::vector<int64_t>{32, l == 0 ? 37 : 19}));
    }
  }
  CHECK_EQUAL(seen, 2);
  // Of models cut to all ranks as well, whose factors are multiplied out.
  flrc::FactorizeOptions cut;
  cut.dtype = flrc::Dtype::f32;
  const auto found = flrc::calibrate(narrow, calibration(), Job());
  cut.levels.emplace_back(found->ranks.begin(), found->ranks.end());
  const auto factored = flrc::factorize(*found, cut, Job());
  const auto contents = [](const flrc::Model& model) {
    const temporary::File file;
    std::vector<std::string> names;
    std::vector<int64_t> offsets;
    int64_t at = 0;
    for (const flrc::TensorEntry& entry : flrc::tensorEntries(model, true)) {
      names.push_back(entry.name);
      offsets.push_back(at);
      at += static_cast<int64_t>(entry.byteLength);
    }
    std::ofstream(file.place, std::ios::binary).close();
    std::filesystem::resize_file(file.place, static_cast<uintmax_t>(at));
    flrc::writeTensors(model, true, file.path, names, offsets, Job());
    std::vector<float> values(static_cast<size_t>(at) / sizeof(float));
    std::ifstream(file.place, std::ios::binary).read(reinterpret_cast<char*>(values.data()), at);
    return values;
  };
  const std::vector<float> expected = contents(*zeroed), rebuilt = contents(*factored);
  CHECK(contents(*narrow) == expected);
  CHECK_EQUAL(rebuilt.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) CHECK_NEAR(rebuilt[i], expected[i], 1e-4);
}

TEST("widths: losses, scores and curves of a calibration are those with zeros, and full ranks lose nothing") {
  for (const std::string& name : fixture::names()) {
    const Dropped of(name, channelsOf(name), 2);
    const auto narrow = flrc::loadModel(of.narrow, Job()), zeroed = flrc::loadModel(of.zeroed, Job());
    flrc::CalibrationOptions options = calibration();
    options.keepInputMoments = true;
    options.shrinkage = {0.1, 0.1};
    const auto got = flrc::calibrate(narrow, options, Job());
    // Inverting the moments of channels that are nothing would make much of their jitter.
    const auto expected = flrc::calibrate(zeroed, options, Job());
    CHECK_NEAR(got->meanLoss, expected->meanLoss, 1e-5);
    for (int64_t i = 0; i < narrow->projectionCount(); ++i) {
      const auto at = static_cast<size_t>(i);
      const flrc::FisherScore &left = got->scores[at], &right = expected->scores[at];
      CHECK_NEAR(left.weighted, right.weighted, kSums * right.weighted);
      CHECK_NEAR(left.gradient, right.gradient, kSums * right.gradient);
      CHECK_NEAR(left.taylor, right.taylor, kSums * right.taylor);
      const flrc::Shape shape =
          flrc::projectionShape(of.narrow.config, i / kProjections, static_cast<int>(i % kProjections));
      CHECK_EQUAL(got->ranks[at], std::min(shape.rows, shape.cols));
      CHECK_EQUAL(got->factors->count(at * 2), static_cast<size_t>(got->ranks[at] * shape.rows));
      const std::vector<double>&curve = got->curves[at], &whole = expected->curves[at];
      const double most = *std::max_element(whole.begin(), whole.end());
      for (size_t r = 0; r < curve.size(); ++r) CHECK_NEAR(curve[r], whole[r], kSums * whole[r] + 1e-5 * most);
    }
    flrc::FactorizeOptions cut;
    cut.dtype = flrc::Dtype::f32;
    cut.levels.emplace_back(got->ranks.begin(), got->ranks.end());
    const auto full = flrc::factorize(*got, cut, Job());
    flrc::Session left(full), right(narrow);
    for (flrc::Session* session : {&left, &right}) session->append(tokens(9).data(), 9, 0, Job());
    checkLogits(left, right);
  }
}

TEST("widths: what is cut from a narrow model learns from the whole one") {
  const std::string name = fixture::kTwoLevelsOf;
  const Dropped of(name, channelsOf(name), 2);
  const auto narrow = flrc::loadModel(of.narrow, Job());
  const auto found = flrc::calibrate(narrow, calibration(), Job());
  flrc::FactorizeOptions cut;
  cut.dtype = flrc::Dtype::f32;
  cut.levels.emplace_back();
  for (const int64_t rank : found->ranks) cut.levels[0].push_back(static_cast<int32_t>(rank * 3 / 4));
  flrc::RecoveryOptions options;
  options.tokens = calibration().tokens;
  options.lengths = calibration().lengths;
  options.dtype = flrc::Dtype::f32;
  options.memory = 1 << 30;
  options.scratch = temporary::folder();
  flrc::Recovery recovery(flrc::factorize(*found, cut, Job()), fixture::load(name, 2).model, options, Job());
  const std::vector<int32_t> windows = {0, 1, 2};
  const double before = recovery.evaluate(windows, 0, Job()).kl;
  for (int step = 0; step < 3; ++step) recovery.step({windows, 0, {0.9, 0.99}, 0.01, 0.3}, Job());
  CHECK(recovery.evaluate(windows, 0, Job()).kl < 0.9 * before);
  CHECK(recovery.finish(Job())->config.intermediates == of.narrow.config.intermediates);
}
