// The channels of a whole model's MLPs: ranked over a text, and dropped from it.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "calibrate/channels.h"
#include "check.h"
#include "fixture.h"
#include "model/session.h"
#include "model/wide_layer.h"
#include "model/window_losses.h"
#include "temporary.h"

using flrc::ChannelOptions;
using flrc::Channels;
using flrc::Job;
using flrc::kDown;
using flrc::kGate;
using flrc::kProjections;
using flrc::kUp;
using flrc::Model;
using flrc::PackedSymmetric;
using Pointer = std::shared_ptr<const Model>;

namespace {

ChannelOptions options(const fixture::Fixture& of, int64_t group) {
  ChannelOptions options;
  options.tokens = of.tokens;
  options.lengths.assign(static_cast<size_t>(of.sequences), static_cast<int32_t>(of.length));
  options.labels = flrc::Labels::data;
  options.shrinkage = {0.1, 0.5};
  options.group = group;
  options.memory = 1 << 30;
  options.scratch = temporary::folder();
  return options;
}

// So many groups fewer in every layer.
std::vector<int32_t> fewer(const Channels& channels, int64_t groups) {
  const flrc::ModelConfig& config = channels.model->config;
  return std::vector<int32_t>(static_cast<size_t>(config.layers),
                              static_cast<int32_t>(config.intermediate - groups * channels.group));
}

double loss(const Model& model, const fixture::Fixture& of) {
  const std::vector<double> losses = flrc::windowLosses(model, of.tokens, of.length, 0, Job());
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

// Sum of squares, over all positions, of how far a model's logits are from the fixture's. Of random weights
// losses would say little.
double distance(const fixture::Fixture& of, const Pointer& model) {
  const std::vector<double>& expected = of.at("logits").values;
  double sum = 0;
  size_t at = 0;
  for (int64_t s = 0; s < of.sequences; ++s) {
    flrc::Session session(model);
    for (int64_t t = 0; t < of.length; ++t) {
      session.append(of.tokens.data() + s * of.length + t, 1, 0, Job());
      for (float logit : session.logits()) sum += std::pow(logit - expected[at++], 2);
    }
  }
  return sum;
}

flrc::Linear& projection(Model& model, int64_t layer, int p) {
  return model.layers[static_cast<size_t>(layer)].projections[static_cast<size_t>(p)];
}

std::vector<float> valuesOf(const flrc::RowMatrix& matrix) { return flrc::widenRows(matrix, 1); }

template <typename Change>
void change(flrc::Linear& linear, const Change& to) {
  std::vector<float> values = valuesOf(*linear.dense);
  to(values);
  linear.dense = std::make_shared<flrc::RowMatrix>(
      flrc::makeRows(values.data(), linear.outputs, linear.inputs, linear.inputs, linear.dense->dtype));
}

Pointer inType(const Model& model, flrc::Dtype dtype) {
  auto to = std::make_shared<Model>(model);
  to->dtype = dtype;
  for (int64_t i = 0; i < model.projectionCount(); ++i) {
    flrc::Linear& linear = projection(*to, i / kProjections, static_cast<int>(i % kProjections));
    linear.dense = flrc::converted(linear.dense, dtype, 2);
  }
  return to;
}

PackedSymmetric packed(const fixture::Array& full, double share) {
  PackedSymmetric to(full.extent(0));
  for (int64_t i = 0, at = 0; i < to.n; ++i) {
    for (int64_t j = 0; j <= i; ++j, ++at) {
      to.values[static_cast<size_t>(at)] =
          full.values[static_cast<size_t>(i * to.n + j)] * (i == j ? 1 : 1 - share);
    }
  }
  return to;
}

// Up to where costs are first measured, a third, they have one scale.
void checkProportional(const flrc::ChannelRanking& got, const flrc::ChannelRanking& expected,
                       double tolerance) {
  CHECK(got.order == expected.order);
  CHECK_EQUAL(got.costs.size(), expected.costs.size());
  const size_t third = (expected.costs.size() - 1) / 3;
  for (size_t k = 0; k <= third; ++k) {
    const double cost = expected.costs[k] / expected.costs[third];
    CHECK_NEAR(got.costs[k] / got.costs[third], cost, tolerance * cost);
  }
}

}  // namespace

TEST("dropped channels: the order and the run of costs are those of PyTorch's moments") {
  for (const std::string& name : fixture::names()) {
    const fixture::Fixture of = fixture::load(name, 2);
    const auto channels = flrc::rankChannels(of.model, options(of, 4), Job());
    CHECK_NEAR(channels->meanLoss, of.at("loss").values[0], 1e-5);
    CHECK_EQUAL(channels->lossTokens, of.sequences * (of.length - 1));
    for (int64_t l = 0; l < of.model->config.layers; ++l) {
      const std::string down = flrc::projectionName(l, kDown);
      if (!of.expected.count(down + ".A")) continue;
      const flrc::RowMatrix& w = *of.model->projection(l * kProjections + kDown).dense;
      flrc::ChannelRankingOptions how;
      how.group = 4;
      how.tokens = static_cast<double>(of.tokens.size());
      const auto expected =
          flrc::rankChannels(valuesOf(w).data(), w.rows, w.cols, packed(of.at(down + ".A"), 0.1),
                             packed(of.at(down + ".B"), 0.5), how, Job());
      const flrc::ChannelRanking& got = channels->layers[static_cast<size_t>(l)];
      CHECK(got.costs.size() > 7);
      checkProportional(got, expected, 2e-3);
    }
  }
}

TEST("dropped channels: moments are those of a calibration, their gradients clipped alike") {
  const fixture::Fixture of = fixture::load("llama", 2);
  auto model = std::make_shared<Model>(*of.model);
  // Most tokens are as good as certain, so that gradients differ by powers of ten.
  std::vector<float> head = valuesOf(*model->head);
  for (float& value : head) value *= 20;
  model->head = std::make_shared<flrc::RowMatrix>(
      flrc::makeRows(head.data(), model->head->rows, model->head->cols, model->head->cols, flrc::Dtype::f32));
  ChannelOptions how = options(of, 4);
  how.labels = flrc::Labels::model;
  const auto channels = flrc::rankChannels(model, how, Job());

  flrc::CalibrationOptions same;
  static_cast<flrc::PassText&>(same) = how;
  same.shrinkage = how.shrinkage;
  same.memory = how.memory;
  same.scratch = how.scratch;
  same.keepInputMoments = true;
  std::vector<PackedSymmetric> gradients(channels->layers.size());
  const auto calibration =
      flrc::calibrate(model, same, Job(), [&](int64_t layer, const flrc::LayerMoments& moments) {
        gradients[static_cast<size_t>(layer)] = moments.gradients[kDown];
      });
  for (size_t l = 0; l < gradients.size(); ++l) {
    const int64_t index = static_cast<int64_t>(l) * kProjections + kDown;
    const flrc::RowMatrix& w = *model->projection(index).dense;
    PackedSymmetric a(w.cols);
    std::vector<float> scratch;
    std::copy_n(calibration->inputMoments->get(
                    static_cast<size_t>(flrc::momentSlot(static_cast<int64_t>(l), kDown)), scratch),
                a.values.size(), a.values.begin());
    a.shrinkToDiagonal(how.shrinkage.inputs);
    flrc::ChannelRankingOptions ranking;
    ranking.group = 4;
    ranking.tokens = static_cast<double>(of.tokens.size());
    const auto expected =
        flrc::rankChannels(valuesOf(w).data(), w.rows, w.cols, a, gradients[l], ranking, Job());
    checkProportional(channels->layers[l], expected, 1e-4);
  }
}

TEST("dropped channels: costs are squares of what each token's loss changes by to first order") {
  fixture::Fixture of = fixture::load("llama", 2);
  // Of two tokens only the first has a loss, which is its sequence's: so its change can be seen.
  check::Random random(3);
  of.sequences = 150;
  of.length = 2;
  of.tokens.clear();
  for (int i = 0; i < 300; ++i) of.tokens.push_back(static_cast<int32_t>(random.below(of.model->config.vocab)));
  const auto channels = flrc::rankChannels(of.model, options(of, 4), Job());
  const int64_t all = of.model->config.intermediate;
  for (int64_t l = 0; l < of.model->config.layers; ++l) {
    const flrc::ChannelRanking& layer = channels->layers[static_cast<size_t>(l)];
    for (const int64_t share : {1, 2}) {
      const int64_t groups = (std::ssize(layer.costs) - 1) * share / 3;
      std::vector<int32_t> widths = fewer(*channels, 0);
      widths[static_cast<size_t>(l)] -= static_cast<int32_t>(4 * groups);
      const Pointer narrow = flrc::dropChannels(*channels, widths, Job());
      const std::vector<int32_t> kept = flrc::keptChannels(*channels, l, widths[static_cast<size_t>(l)]);
      const std::vector<float> refitted = valuesOf(*narrow->projection(l * kProjections + kDown).dense);
      // A step towards the narrower model, and one away from it.
      std::vector<double> losses[2];
      constexpr float kStep = 0.05f;
      for (const int way : {0, 1}) {
        auto moved = std::make_shared<Model>(*of.model);
        change(projection(*moved, l, kDown), [&](std::vector<float>& values) {
          const float step = way ? kStep : -kStep;
          const auto k = std::ssize(kept);
          for (float& value : values) value *= 1 - step;
          for (int64_t i = 0; i < std::ssize(refitted); ++i) {
            values[static_cast<size_t>(i / k * all + kept[static_cast<size_t>(i % k)])] +=
                step * refitted[static_cast<size_t>(i)];
          }
        });
        losses[way] = flrc::windowLosses(*moved, of.tokens, 2, 0, Job());
      }
      double expected = 0;
      for (size_t s = 0; s < losses[0].size(); ++s) {
        expected += std::pow((losses[1][s] - losses[0][s]) / (2 * static_cast<double>(kStep)), 2) / 2;
      }
      CHECK_NEAR(layer.costs[static_cast<size_t>(groups)], expected, 0.02 * expected);
    }
  }
}

TEST("dropped channels: with half of them logits stay nearer where down is refitted") {
  for (const std::string& name : fixture::names()) {
    const fixture::Fixture of = fixture::load(name, 2);
    const auto channels = flrc::rankChannels(of.model, options(of, 4), Job());
    const std::vector<int32_t> widths = fewer(*channels, of.model->config.intermediate / 8);
    const Pointer narrow = flrc::dropChannels(*channels, widths, Job());
    auto cut = std::make_shared<Model>(*narrow);
    double changed = 0;
    for (int64_t l = 0; l < of.model->config.layers; ++l) {
      const std::vector<int32_t> kept = flrc::keptChannels(*channels, l, widths[static_cast<size_t>(l)]);
      CHECK(std::is_sorted(kept.begin(), kept.end()));
      const std::vector<float> whole = valuesOf(*of.model->projection(l * kProjections + kDown).dense);
      const int64_t all = of.model->config.intermediate;
      change(projection(*cut, l, kDown), [&](std::vector<float>& values) {
        const auto k = std::ssize(kept);
        for (int64_t i = 0; i < std::ssize(values); ++i) {
          const float was = whole[static_cast<size_t>(i / k * all + kept[static_cast<size_t>(i % k)])];
          changed += std::abs(values[static_cast<size_t>(i)] - was);
          values[static_cast<size_t>(i)] = was;
        }
      });
    }
    CHECK(changed > 0);
    CHECK_AT_MOST(distance(of, narrow), 0.9 * distance(of, cut));
  }
}

TEST("dropped channels: those that say nothing or what others say go first, and nothing is lost") {
  for (const std::string& name : {std::string("llama3-scaled"), std::string("gemma3")}) {
    const fixture::Fixture of = fixture::load(name, 2);
    auto model = std::make_shared<Model>(*of.model);
    for (int64_t l = 0; l < model->config.layers; ++l) {
      const int64_t d = model->config.hidden;
      for (const int p : {kGate, kUp}) {
        flrc::Linear& linear = projection(*model, l, p);
        change(linear, [&](std::vector<float>& values) {
          std::fill_n(values.begin() + 5 * d, d, 0.0f);
          for (int64_t i = 0; i < d; ++i) {
            values[static_cast<size_t>(11 * d + i)] =
                values[static_cast<size_t>(3 * d + i)] * (p == kUp ? 2.0f : 1.0f);
          }
        });
        if (linear.bias.empty()) continue;
        linear.bias[5] = 0;
        linear.bias[11] = linear.bias[3] * (p == kUp ? 2.0f : 1.0f);
      }
    }
    ChannelOptions how = options(of, 2);
    how.shrinkage = {};
    // Few tokens span few directions: without more, others would say what any channel says.
    how.tokens.clear();
    check::Random random(1);
    how.lengths = {64, 64, 64};
    for (int i = 0; i < 192; ++i) {
      how.tokens.push_back(static_cast<int32_t>(random.below(model->config.vocab)));
    }
    const auto channels = flrc::rankChannels(model, how, Job());
    for (const flrc::ChannelRanking& layer : channels->layers)
      CHECK_AT_MOST(layer.costs[1], 1e-4 * layer.costs[2]);
    const Pointer narrow = flrc::dropChannels(*channels, fewer(*channels, 1), Job());
    for (int64_t l = 0; l < model->config.layers; ++l) {
      const std::vector<int32_t> kept = flrc::keptChannels(*channels, l, model->config.intermediate - 2);
      CHECK(!std::binary_search(kept.begin(), kept.end(), 5));
      CHECK(!std::binary_search(kept.begin(), kept.end(), 3) ||
            !std::binary_search(kept.begin(), kept.end(), 11));
    }
    const auto expected = flrc::windowLosses(*model, how.tokens, 64, 0, Job());
    const auto got = flrc::windowLosses(*narrow, how.tokens, 64, 0, Job());
    for (size_t i = 0; i < got.size(); ++i) CHECK_NEAR(got[i], expected[i], 1e-3);
  }
}

TEST("dropped channels: no byte depends on memory or threads") {
  const fixture::Fixture one = fixture::load("llama", 1), three = fixture::load("llama", 3);
  const auto roomy = flrc::rankChannels(one.model, options(one, 4), Job());
  ChannelOptions tight = options(three, 4);
  tight.memory = 0;
  const auto spilled = flrc::rankChannels(three.model, tight, Job());
  CHECK(roomy->moments->memoryBytes() > 0);
  CHECK_EQUAL(spilled->moments->memoryBytes(), 0);
  const Pointer left = flrc::dropChannels(*roomy, fewer(*roomy, 3), Job());
  const Pointer right = flrc::dropChannels(*spilled, fewer(*spilled, 3), Job());
  for (size_t l = 0; l < roomy->layers.size(); ++l) {
    CHECK(roomy->layers[l].order == spilled->layers[l].order);
    CHECK(roomy->layers[l].costs == spilled->layers[l].costs);
  }
  for (int64_t i = 0; i < left->projectionCount(); ++i) {
    CHECK(valuesOf(*left->projection(i).dense) == valuesOf(*right->projection(i).dense));
  }
}

TEST("dropped channels: what stays keeps its type and bits, and layers that keep all are shared") {
  const fixture::Fixture of = fixture::load("llama3-scaled", 2);
  for (const flrc::Dtype dtype : {flrc::Dtype::bf16, flrc::Dtype::int8, flrc::Dtype::int4}) {
    const Pointer model = inType(*of.model, dtype);
    const auto channels = flrc::rankChannels(model, options(of, 4), Job());
    std::vector<int32_t> widths = fewer(*channels, 0);
    widths[1] -= 16;
    const Pointer narrow = flrc::dropChannels(*channels, widths, Job());
    CHECK(narrow->dtype == dtype);
    CHECK(narrow->bytes() < model->bytes());
    CHECK(narrow->embedding == model->embedding);
    CHECK_EQUAL(narrow->config.intermediates[1], widths[1]);
    for (int64_t i = 0; i < model->projectionCount(); ++i) {
      const bool mlp = i / kProjections == 1 && i % kProjections >= kGate;
      CHECK(mlp == (narrow->projection(i).dense != model->projection(i).dense));
      CHECK(narrow->projection(i).dense->dtype == dtype);
    }
    const std::vector<int32_t> kept = flrc::keptChannels(*channels, 1, widths[1]);
    for (const int p : {kGate, kUp}) {
      const flrc::Linear &from = model->projection(kProjections + p),
                         &to = narrow->projection(kProjections + p);
      CHECK_EQUAL(to.outputs, widths[1]);
      for (int64_t r = 0; r < to.outputs; ++r) {
        flrc::StoredRow left, right;
        flrc::storeRow(*from.dense, kept[static_cast<size_t>(r)], left);
        flrc::storeRow(*to.dense, r, right);
        CHECK(left.data == right.data && left.scale == right.scale && left.zero == right.zero);
        if (!from.bias.empty()) {
          CHECK_EQUAL(to.bias[static_cast<size_t>(r)],
                      from.bias[static_cast<size_t>(kept[static_cast<size_t>(r)])]);
        }
      }
    }
    CHECK(std::isfinite(loss(*narrow, of)));
    // And what is left can be ranked again.
    const auto again = flrc::rankChannels(narrow, options(of, 4), Job());
    CHECK_EQUAL(flrc::keptChannels(*again, 1, widths[1] - 8).size(), static_cast<size_t>(widths[1] - 8));
  }
}

TEST("dropped channels: widths that are no whole groups or too few are refused, and work can be cancelled") {
  const fixture::Fixture of = fixture::load("llama", 2);
  const auto channels = flrc::rankChannels(of.model, options(of, 4), Job());
  const int64_t all = of.model->config.intermediate;
  const char* internal = flrc::code::internal;
  for (const int64_t width : {all - 2, all + 4, all / 4 - 4, int64_t{0}}) {
    CHECK_THROWS(internal, flrc::keptChannels(*channels, 0, width));
    CHECK_THROWS(
        internal,
        flrc::dropChannels(*channels,
                           std::vector<int32_t>(of.model->layers.size(), static_cast<int32_t>(width)), Job()));
  }
  CHECK_THROWS(internal, flrc::keptChannels(*channels, -1, all));
  CHECK_THROWS(internal, flrc::keptChannels(*channels, of.model->config.layers, all));
  CHECK_THROWS(internal, flrc::dropChannels(*channels, {}, Job()));
  CHECK_THROWS(internal, flrc::rankChannels(of.model, options(of, 0), Job()));
  CHECK_THROWS(internal, flrc::rankChannels(fixture::twoLevels(2), options(of, 4), Job()));
  Job cancelled;
  cancelled.cancel();
  CHECK_THROWS(flrc::code::aborted, flrc::dropChannels(*channels, fewer(*channels, 1), cancelled));
  // Between two layers' visits.
  int64_t last = 0;
  Job* running = nullptr;
  Job job([&](const char* stage, int64_t done, int64_t total) {
    CHECK_EQUAL(std::string(stage), std::string("channels"));
    last = done;
    if (done > total / 4) running->cancel();
  });
  running = &job;
  CHECK_THROWS(flrc::code::aborted, flrc::rankChannels(of.model, options(of, 4), job));
  CHECK_EQUAL(last, of.model->config.layers + 3);
}
