// The model's passes and its calibration against PyTorch in float64 (test/fixtures/pytorch).
#include <algorithm>
#include <cmath>

#include "calibrate/calibrate.h"
#include "calibrate/factorize.h"
#include "check.h"
#include "cpu/kernels.h"
#include "fixture.h"
#include "linalg/bf16_gemm.h"
#include "linalg/factors.h"
#include "model/session.h"
#include "model/window_losses.h"
#include "temporary.h"

using flrc::Calibration;
using flrc::CalibrationOptions;
using flrc::Job;
using flrc::Labels;
using flrc::PackedSymmetric;
using flrc::Session;
using flrc::Whitening;

namespace {

constexpr double kLogits = 1e-4;   // absolute, logits of unit scale and some tens of terms each
constexpr double kMoments = 1e-3;  // relative

CalibrationOptions options(const fixture::Fixture& of, Whitening whitening) {
  CalibrationOptions options;
  options.tokens = of.tokens;
  options.lengths.assign(static_cast<size_t>(of.sequences), static_cast<int32_t>(of.length));
  options.labels = Labels::data;
  options.whitening = whitening;
  options.memory = 1 << 30;
  options.scratch = temporary::folder();
  return options;
}

double logit(const fixture::Fixture& of, int64_t s, int64_t t, int64_t v) {
  const fixture::Array& logits = of.at("logits");
  return logits.values[static_cast<size_t>((s * of.length + t) * logits.extent(2) + v)];
}

void checkLogits(const fixture::Fixture& of, const Session& session, int64_t s, int64_t t) {
  const auto& got = session.logits();
  for (size_t v = 0; v < got.size(); ++v) {
    CHECK_NEAR(got[v], logit(of, s, t, static_cast<int64_t>(v)), kLogits);
  }
}

const char* word(Whitening whitening) { return whitening == Whitening::input ? "input" : "two-sided"; }

void checkMoment(const PackedSymmetric& got, const fixture::Array& expected) {
  double norm = 0, difference = 0;
  for (int64_t i = 0; i < got.n; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      const double want = expected.values[static_cast<size_t>(i * got.n + j)];
      norm += want * want;
      difference += std::pow(got.values[static_cast<size_t>(i * (i + 1) / 2 + j)] - want, 2);
    }
  }
  CHECK_AT_MOST(std::sqrt(difference), kMoments * std::sqrt(norm));
}

// W^T M W of W [rows, cols], or of its transpose W M W^T.
fixture::Array seenThrough(const fixture::Array& moment, const flrc::RowMatrix& weight, bool transposed) {
  const int64_t wide = moment.extent(0), thin = transposed ? weight.rows : weight.cols;
  std::vector<float> row(static_cast<size_t>(weight.cols));
  std::vector<double> w(static_cast<size_t>(wide * thin));  // [wide, thin]
  for (int64_t r = 0; r < weight.rows; ++r) {
    flrc::getRow(weight, r, row.data());
    for (int64_t c = 0; c < weight.cols; ++c) {
      w[static_cast<size_t>(transposed ? c * thin + r : r * thin + c)] = row[static_cast<size_t>(c)];
    }
  }
  fixture::Array seen{{thin, thin}, std::vector<double>(static_cast<size_t>(thin * thin))};
  for (int64_t r = 0; r < wide; ++r) {
    for (int64_t c = 0; c < wide; ++c) {
      for (int64_t i = 0; i < thin; ++i) {
        for (int64_t j = 0; j < thin; ++j) {
          seen.values[static_cast<size_t>(i * thin + j)] += w[static_cast<size_t>(r * thin + i)] *
                                                            moment.values[static_cast<size_t>(r * wide + c)] *
                                                            w[static_cast<size_t>(c * thin + j)];
        }
      }
    }
  }
  return seen;
}

// (1 - share) M + share diag(M)
fixture::Array shrunk(fixture::Array moment, double share) {
  const int64_t n = moment.extent(0);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      if (i != j) moment.values[static_cast<size_t>(i * n + j)] *= 1 - share;
    }
  }
  return moment;
}

// B, or W^T B W of a tall W.
fixture::Array gradientMoment(const fixture::Fixture& of, int64_t layer, int p, double share = 0) {
  const flrc::Linear& linear = of.model->layers[static_cast<size_t>(layer)].projections[p];
  const fixture::Array b = shrunk(of.at(flrc::projectionName(layer, p) + ".B"), share);
  return linear.outputs <= linear.inputs ? b : seenThrough(b, *linear.dense, false);
}

// A, or W A W^T of a wide o or down.
fixture::Array inputMoment(const fixture::Fixture& of, int64_t layer, int p, double share = 0) {
  const fixture::Array a = shrunk(of.at(flrc::projectionName(layer, p) + ".A"), share);
  if (!flrc::inputSeenThrough(of.model->config, layer, p)) return a;
  return seenThrough(a, *of.model->layers[static_cast<size_t>(layer)].projections[p].dense, true);
}

// || y - y' || / || y' || of one projection of two models, over 16 random inputs.
double difference(const flrc::Model& a, const flrc::Model& b, int64_t level, int64_t projection) {
  constexpr int64_t kColumns = 16;
  const flrc::Linear& linear = a.projection(projection);
  check::Random random(static_cast<uint64_t>(projection));
  std::vector<float> x(static_cast<size_t>(linear.inputs * kColumns));
  for (float& value : x) value = static_cast<float>(random.normal());
  std::vector<float> y[2];
  const flrc::Model* models[] = {&a, &b};
  for (int i = 0; i < 2; ++i) {
    y[i].resize(static_cast<size_t>(linear.outputs * kColumns));
    flrc::LinearScratch scratch;
    const flrc::LinearCall call = {
        &models[i]->projection(projection),
        models[i]->levels[static_cast<size_t>(level)][static_cast<size_t>(projection)], y[i].data()};
    flrc::applyLinears(&call, 1, x.data(), kColumns, 2, scratch);
  }
  double error = 0, norm = 0;
  for (size_t i = 0; i < y[0].size(); ++i) {
    error += std::pow(static_cast<double>(y[0][i]) - y[1][i], 2);
    norm += std::pow(static_cast<double>(y[1][i]), 2);
  }
  return std::sqrt(error / norm);
}

}  // namespace

TEST("reference: prefill and cached decoding give PyTorch's logits at every position") {
  for (const std::string& name : fixture::names()) {
    const fixture::Fixture of = fixture::load(name, 2);
    for (int64_t s = 0; s < of.sequences; ++s) {
      const int32_t* tokens = of.tokens.data() + s * of.length;
      Session cached(of.model);
      for (int64_t t = 0; t < of.length; ++t) {
        cached.append(tokens + t, 1, 0, Job());
        checkLogits(of, cached, s, t);
      }
      // 3 columns of the decode kernels, then a prefill of many, then a rewind into the middle.
      Session mixed(of.model);
      mixed.append(tokens, 3, 0, Job());
      checkLogits(of, mixed, s, 2);
      mixed.append(tokens + 3, of.length - 3, 0, Job());
      checkLogits(of, mixed, s, of.length - 1);
      mixed.rewind(20);
      mixed.append(tokens + 20, 1, 0, Job());
      checkLogits(of, mixed, s, 20);
    }
  }
}

TEST("reference: window losses are PyTorch's next-token losses") {
  for (const std::string& name : fixture::names()) {
    const fixture::Fixture of = fixture::load(name, 2);
    double total = 0;
    for (double loss : flrc::windowLosses(*of.model, of.tokens, of.length, 0, Job())) total += loss;
    CHECK_NEAR(total / static_cast<double>(of.sequences * (of.length - 1)), of.at("loss").values[0], 1e-5);
  }
}

TEST("reference: scores, moments, factor errors and truncation curves are PyTorch's") {
  for (const std::string& name : fixture::names()) {
    const fixture::Fixture of = fixture::load(name, 2);
    for (Whitening whitening : {Whitening::input, Whitening::twoSided}) {
      const auto observe = [&](int64_t layer, const flrc::LayerMoments& moments) {
        for (int p = 0; layer == 0 && p < flrc::kProjections; ++p) {
          checkMoment(moments.inputs[static_cast<size_t>(flrc::inputIndex(p))], inputMoment(of, layer, p));
          if (whitening == Whitening::twoSided) {
            checkMoment(moments.gradients[static_cast<size_t>(p)], gradientMoment(of, layer, p));
          }
        }
      };
      const auto result = flrc::calibrate(of.model, options(of, whitening), Job(), observe);
      CHECK_NEAR(result->meanLoss, of.at("loss").values[0], 1e-5);
      for (int64_t i = 0; i < of.model->projectionCount(); ++i) {
        const auto at = static_cast<size_t>(i);
        const std::string projection =
            flrc::projectionName(i / flrc::kProjections, static_cast<int>(i % flrc::kProjections));
        const auto& scores = of.at(projection + ".scores").values;
        CHECK_NEAR(result->scores[at].weighted, scores[0], kMoments * scores[0]);
        CHECK_NEAR(result->scores[at].gradient, scores[1], kMoments * scores[1]);
        CHECK_NEAR(result->scores[at].taylor, scores[2], kMoments * scores[2]);

        const auto& errors = of.at(projection + ".error." + word(whitening)).values;
        double tail = 0;
        for (size_t r = errors.size(); r-- > 0;) {
          if (r < result->singular[at].size()) tail += result->singular[at][r] * result->singular[at][r];
          CHECK_NEAR(std::sqrt(tail), errors[r], 1e-4 * errors[r] + 1e-6 * errors[0]);
        }
        // A q or k before a norm does not feel its own scale, so E(0) is 0 there: the scale is the largest E.
        const auto& curve = of.at(projection + ".curve." + word(whitening)).values;
        const double most = *std::max_element(curve.begin(), curve.end());
        CHECK_EQUAL(result->curves[at].size(), curve.size());
        for (size_t r = 0; r < curve.size(); ++r) {
          CHECK_NEAR(result->curves[at][r], curve[r], 1e-3 * curve[r] + 1e-6 * most);
        }
      }
    }
  }
}

TEST("reference: moments shrink towards the diagonals of both sides, also where they are seen through W") {
  for (const std::string& name : fixture::names()) {
    const fixture::Fixture of = fixture::load(name, 2);
    for (const flrc::Shrinkage share : {flrc::Shrinkage{0.3, 0.6}, flrc::Shrinkage{1, 1}}) {
      CalibrationOptions how = options(of, Whitening::twoSided);
      how.shrinkage = share;
      const auto observe = [&](int64_t layer, const flrc::LayerMoments& moments) {
        for (int p = 0; layer == 0 && p < flrc::kProjections; ++p) {
          checkMoment(moments.inputs[static_cast<size_t>(flrc::inputIndex(p))],
                      inputMoment(of, layer, p, share.inputs));
          checkMoment(moments.gradients[static_cast<size_t>(p)], gradientMoment(of, layer, p, share.gradients));
        }
      };
      flrc::calibrate(of.model, how, Job(), observe);
    }
  }
}

TEST("reference: the inputs' moments are kept where they are asked for, whatever the whitening") {
  for (const std::string& name : fixture::names()) {
    const fixture::Fixture of = fixture::load(name, 2);
    for (Whitening whitening : {Whitening::none, Whitening::scaled, Whitening::twoSided}) {
      CalibrationOptions keep = options(of, whitening);
      CHECK(flrc::calibrate(of.model, keep, Job())->inputMoments == nullptr);
      keep.keepInputMoments = true;
      const auto result = flrc::calibrate(of.model, keep, Job());
      for (int p = 0; p < flrc::kProjections; ++p) {
        PackedSymmetric moment(of.model->projection(p).inputs);
        const auto slot = static_cast<size_t>(flrc::momentSlot(0, p));
        std::vector<float> scratch;
        std::copy_n(result->inputMoments->get(slot, scratch), moment.values.size(), moment.values.begin());
        checkMoment(moment, of.at(flrc::projectionName(0, p) + ".A"));
      }
    }
  }
}

TEST("reference: scaled whitening weighs a channel by the mean of its magnitudes") {
  const fixture::Fixture of = fixture::load("llama", 2);
  const int64_t d = of.model->config.hidden, tokens = of.sequences * of.length;
  // What q, k and v of the first layer see is the normed embedding alone.
  std::vector<float> hidden(static_cast<size_t>(tokens * d)), x(static_cast<size_t>(d));
  of.model->embed(of.tokens.data(), tokens, hidden.data());
  std::vector<double> mean(static_cast<size_t>(d));
  for (int64_t t = 0; t < tokens; ++t) {
    flrc::cpu::kernels().rmsNorm(hidden.data() + t * d, of.model->layers[0].attentionNorm->data(),
                                 of.model->config.eps, d, x.data());
    for (int64_t i = 0; i < d; ++i) {
      mean[static_cast<size_t>(i)] += std::fabs(x[static_cast<size_t>(i)]) / static_cast<double>(tokens);
    }
  }
  std::vector<flrc::LayerMoments> layers(static_cast<size_t>(of.model->config.layers));
  const auto result = flrc::calibrate(
      of.model, options(of, Whitening::scaled), Job(),
      [&](int64_t layer, const flrc::LayerMoments& moments) { layers[static_cast<size_t>(layer)] = moments; });
  const PackedSymmetric& a = layers[0].inputs[0];
  for (int64_t i = 0; i < d; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      CHECK_NEAR(a.values[static_cast<size_t>(i * (i + 1) / 2 + j)], i == j ? mean[static_cast<size_t>(i)] : 0,
                 1e-6);
    }
  }
  for (int64_t index = 0; index < of.model->projectionCount(); ++index) {
    const flrc::Linear& linear = of.model->projection(index);
    const int64_t m = linear.outputs, n = linear.inputs;
    std::vector<float> w(static_cast<size_t>(m * n));
    for (int64_t r = 0; r < m; ++r) flrc::getRow(*linear.dense, r, w.data() + r * n);
    const auto& moments = layers[static_cast<size_t>(index / flrc::kProjections)];
    const int p = static_cast<int>(index % flrc::kProjections);
    const PackedSymmetric& scale = moments.inputs[static_cast<size_t>(flrc::inputIndex(p))];
    // || (W - U V) diag(s) || by its definition, at half the ranks, is what the singular values leave.
    const auto at = static_cast<size_t>(index);
    const int64_t rank = result->ranks[at] / 2;
    std::vector<float> uScratch, vScratch;
    const float* u = result->factors->get(at * 2, uScratch);
    const float* v = result->factors->get(at * 2 + 1, vScratch);
    double error = 0, tail = 0;
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        double left = w[static_cast<size_t>(r * n + c)];
        for (int64_t j = 0; j < rank; ++j) left -= static_cast<double>(u[j * m + r]) * v[j * n + c];
        error += left * left * scale.values[static_cast<size_t>(c * (c + 1) / 2 + c)];
      }
    }
    for (size_t j = static_cast<size_t>(rank); j < result->singular[at].size(); ++j) {
      tail += result->singular[at][j] * result->singular[at][j];
    }
    CHECK_NEAR(std::sqrt(error), std::sqrt(tail), 1e-4 * std::sqrt(tail));
  }
}

TEST("reference: randomised factors of few ranks start from the same E(0) and are nearly as good") {
  const fixture::Fixture of = fixture::load("llama", 2);
  CalibrationOptions few = options(of, Whitening::twoSided);
  few.randomisedRank = 6;
  const auto result = flrc::calibrate(of.model, few, Job());
  for (int64_t i = 0; i < of.model->projectionCount(); ++i) {
    const auto at = static_cast<size_t>(i);
    const std::string projection =
        flrc::projectionName(i / flrc::kProjections, static_cast<int>(i % flrc::kProjections));
    const auto& errors = of.at(projection + ".error.two-sided").values;
    const auto& curve = of.at(projection + ".curve.two-sided").values;
    CHECK_EQUAL(result->ranks[at], 6);
    CHECK_EQUAL(result->curves[at].size(), size_t{7});
    CHECK_NEAR(result->curves[at][0], curve[0], 1e-3 * curve[0]);
    double left = errors[0] * errors[0];
    for (size_t r = 0; r < 6; ++r) left -= result->singular[at][r] * result->singular[at][r];
    CHECK_AT_MOST(std::sqrt(left), 1.01 * errors[6]);
  }
}

TEST(
    "reference: a model in bf16 is calibrated as one in f32 of the same values, but for what rounding leaves") {
  for (const std::string& name : fixture::names()) {
    const fixture::Fixture of = fixture::load(name, 2);
    flrc::ModelSpec spec = fixture::spec(name, 2);
    spec.dtype = flrc::Dtype::bf16;
    const std::shared_ptr<const flrc::Model> half = flrc::loadModel(spec, Job());
    const std::shared_ptr<const flrc::Model> full = fixture::inF32(*half);
    const CalibrationOptions how = options(of, Whitening::twoSided);
    const auto got = flrc::calibrate(half, how, Job()), expected = flrc::calibrate(full, how, Job());
    // A chain of products, each of which adds 2^-8 of its size at most: eight a layer forward and as many back,
    // and those with the head. Squares are off by twice that.
    const double tolerance = static_cast<double>(16 * full->config.layers + 4) * 0x1p-8;
    CHECK_NEAR(got->meanLoss, expected->meanLoss, tolerance * expected->meanLoss);
    double difference = 0;
    for (size_t i = 0; i < got->scores.size(); ++i) {
      const flrc::FisherScore &left = got->scores[i], &right = expected->scores[i];
      CHECK_NEAR(left.weighted, right.weighted, 2 * tolerance * right.weighted);
      CHECK_NEAR(left.gradient, right.gradient, 2 * tolerance * right.gradient);
      CHECK_NEAR(left.taylor, right.taylor, tolerance * right.taylor);
      // Where a norm takes back what scales a projection's output, what all ranks hold together cancels.
      const std::vector<double>& curve = expected->curves[i];
      const double most = *std::max_element(curve.begin(), curve.end());
      for (size_t r = 0; r < curve.size(); ++r) CHECK_NEAR(got->curves[i][r], curve[r], 2 * tolerance * most);
      difference += std::abs(left.weighted - right.weighted);
    }
    CHECK_EQUAL(difference > 0, flrc::multipliesBf16());
  }
}

TEST("reference: no byte of a calibration depends on its memory or thread count") {
  const fixture::Fixture one = fixture::load("llama", 1), two = fixture::load("llama", 2);
  int64_t visits = 0;
  const auto count = [&](int64_t, const flrc::LayerMoments&) { ++visits; };
  CalibrationOptions roomy = options(one, Whitening::twoSided);
  roomy.keepInputMoments = true;
  const auto inMemory = flrc::calibrate(one.model, roomy, Job(), count);
  CHECK_EQUAL(visits, one.model->config.layers);
  // Least: scratch files, and one sequence, input and projection at a time. Some: all moments at once, not
  // more.
  const int64_t least = 20000;
  int64_t some = least;
  const auto limitsAt = [&](int64_t memory) {
    return flrc::layerLimits(two.model->config, {true, true, true}, two.length, 2, memory);
  };
  while (limitsAt(some).oneInput) some += 1000;
  CHECK(limitsAt(least).oneInput);
  CHECK(!limitsAt(some).shareMemory);
  for (const int64_t memory : {least, some}) {
    CalibrationOptions limited = options(two, Whitening::twoSided);
    limited.memory = memory;
    limited.keepInputMoments = true;
    visits = 0;
    const auto spilled = flrc::calibrate(two.model, limited, Job(), count);
    CHECK_EQUAL(visits, two.model->config.layers * (memory == least ? 4 : 1));
    CHECK_EQUAL(spilled->limits.projections, 1);
    CHECK(inMemory->curves == spilled->curves);
    CHECK(inMemory->singular == spilled->singular);
    for (size_t i = 0; i < inMemory->ranks.size() * 2; ++i) {
      std::vector<float> a, b;
      const size_t size = inMemory->factors->count(i);
      CHECK_EQUAL(size, spilled->factors->count(i));
      const float* left = inMemory->factors->get(i, a);
      const float* right = spilled->factors->get(i, b);
      CHECK(std::equal(left, left + size, right));
    }
    for (size_t i = 0; i < static_cast<size_t>(two.model->config.layers) * 4; ++i) {
      std::vector<float> a, b;
      const float* left = inMemory->inputMoments->get(i, a);
      CHECK(std::equal(left, left + inMemory->inputMoments->count(i), spilled->inputMoments->get(i, b)));
    }
    flrc::FactorizeOptions cut;
    cut.dtype = flrc::Dtype::int4;
    for (int64_t rank : inMemory->ranks) {
      if (cut.levels.empty()) cut.levels.resize(1);
      cut.levels[0].push_back(cut.levels[0].size() == 3 ? -1 : static_cast<int32_t>(rank / 2));
    }
    const auto left = flrc::factorize(*inMemory, cut, Job()), right = flrc::factorize(*spilled, cut, Job());
    for (int64_t i = 0; i < two.model->projectionCount(); ++i)
      CHECK_EQUAL(difference(*left, *right, 0, i), 0.0);
  }
}

TEST("reference: pivoted blocks of every dtype are the product of the plain f32 factors at every level") {
  const struct {
    flrc::Dtype dtype;
    double tolerance;  // of the output's norm; int8 rounding alone takes 0.5% in each factor
  } cases[] = {{flrc::Dtype::f32, 1e-5}, {flrc::Dtype::bf16, 1e-2}, {flrc::Dtype::int8, 1.5e-2}};
  for (const std::string& name : {std::string("llama"), std::string("qwen3")}) {
    const fixture::Fixture of = fixture::load(name, 2);
    const auto calibration = flrc::calibrate(of.model, options(of, Whitening::twoSided), Job());
    flrc::FactorizeOptions cut;
    for (double share : {0.9, 0.7, 0.4}) {
      std::vector<int32_t> ranks;
      for (int64_t rank : calibration->ranks)
        ranks.push_back(static_cast<int32_t>(share * static_cast<double>(rank)));
      ranks[3] = -1;  // one projection stays dense
      cut.levels.push_back(ranks);
    }
    cut.dtype = flrc::Dtype::f32;
    cut.pivoted = false;
    const auto plain = flrc::factorize(*calibration, cut, Job());
    cut.pivoted = true;
    for (const auto& [dtype, tolerance] : cases) {
      cut.dtype = dtype;
      const auto pivoted = flrc::factorize(*calibration, cut, Job());
      for (int64_t level = 0; level < 3; ++level) {
        CHECK(pivoted->levelParameters(level) < plain->levelParameters(level));
        for (int64_t i = 0; i < of.model->projectionCount(); ++i) {
          CHECK_AT_MOST(difference(*pivoted, *plain, level, i), tolerance);
        }
      }
    }
  }
}
