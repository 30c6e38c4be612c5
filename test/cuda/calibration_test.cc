// What calibrations ask of the CUDA plugin, built for the emulator, against fp64 and against the CPU.
#include <algorithm>
#include <cmath>
#include <limits>

#include "calibrate/calibrate.h"
#include "calibrate/channels.h"
#include "calibrate/device_work.h"
#include "check.h"
#include "dropped.h"
#include "emulated.h"
#include "fixture.h"
#include "model/wide_layer.h"
#include "whitened.h"

using namespace flrc;
using whitened::optimalErrors;
using whitened::Problem;

namespace {

constexpr double kUlp = 0x1p-24;
// What the two bf16 halves of an f32 leave of it.
constexpr double kHalves = 0x1p-18;

emulated::Pair models(const Backend& plugin, const char* name = "qwen2") {
  return emulated::both(plugin, fixture::spec(name, 1), Dtype::bf16);
}

// Rows of widths apart by powers of ten, as activations are.
std::vector<float> rowsOf(check::Random& random, int64_t tokens, int64_t width) {
  std::vector<float> rows = random.floats(tokens * width);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] *= std::pow(10.0f, static_cast<float>(i % 5) - 2);
  return rows;
}

Job& cancelled() {
  static Job job;
  job.cancel();
  return job;
}

struct Sum {
  double value = 0, size = 0;
  void add(double term) {
    value += term;
    size += std::abs(term);
  }
};

Sum dot(const float* x, const float* y, int64_t count) {
  Sum sum;
  for (int64_t i = 0; i < count; ++i) sum.add(static_cast<double>(x[i]) * static_cast<double>(y[i]));
  return sum;
}

// What a calibration's test looks at.
CalibrationOptions optionsOf(Whitening whitening) {
  CalibrationOptions options;
  options.lengths = {40, 30};
  for (int32_t i = 0; i < 70; ++i) options.tokens.push_back((7 * i * i + 3) % 96);
  options.labels = Labels::data;
  options.whitening = whitening;
  options.memory = 1 << 30;
  options.scratch = "/tmp";
  return options;
}

DeviceWork::Factors factorsOf(const DeviceWork& work, const Problem& problem, FactorOptions options = {}) {
  if (options.rank == 0) options.rank = std::min(problem.m, problem.n);
  return work.factors(problem.w.data(), problem.m, problem.n, problem.momentA(), problem.momentB(), nullptr,
                      options);
}

// As test/native/factors_test.cc has it of the CPU.
void checkAllRanks(const DeviceWork& work, const Problem& problem) {
  const int64_t thin = std::min(problem.m, problem.n);
  const DeviceWork::Factors factors = factorsOf(work, problem);
  const std::vector<double> singular = problem.singular(), best = optimalErrors(singular, thin);
  for (int64_t r = 0; r <= thin; ++r) {
    const double optimum = best[static_cast<size_t>(r)];
    CHECK_NEAR(problem.error(factors.u.get(), factors.v.get(), r), optimum, 1e-4 * optimum + 1e-6 * best[0]);
  }
  for (size_t i = 0; i < singular.size() && i < factors.singular.size(); ++i) {
    CHECK_NEAR(factors.singular[i], singular[i], 1e-5 * singular[0]);
  }
}

}  // namespace

TEST("emulated CUDA: moments are f32's, but for what two halves leave of its products") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const emulated::Pair pair = models(*plugin);
  const Job job;
  const std::vector<int64_t> widths = {20, 150};
  // More than are in bf16 at a time, more than are summed in f32, fewer.
  const std::vector<int64_t> lengths = {1100, 300, 3};
  for (const auto& model : {pair.cpu, pair.cuda}) {
    const DeviceWork work(*model, job);
    for (size_t shape = 0; shape < widths.size(); ++shape) {
      check::Random random(shape + 1);
      MomentSums sums(work, widths);
      std::vector<std::vector<Sum>> expected;
      for (int64_t width : widths) expected.emplace_back(static_cast<size_t>(width * (width + 1) / 2));
      for (const int64_t tokens : {lengths[shape], lengths[2]}) {
        std::vector<std::vector<float>> rows;
        for (int64_t width : widths) rows.push_back(rowsOf(random, tokens, width));
        sums.add({rows[0].data(), rows[1].data()}, tokens);
        for (size_t s = 0; s < widths.size(); ++s) {
          const int64_t n = widths[s];
          for (int64_t t = 0; t < tokens; ++t) {
            const float* x = rows[s].data() + t * n;
            for (int64_t i = 0; i < n; ++i) {
              for (int64_t j = 0; j <= i; ++j) {
                expected[s][static_cast<size_t>(i * (i + 1) / 2 + j)].add(static_cast<double>(x[i]) *
                                                                          static_cast<double>(x[j]));
              }
            }
          }
        }
      }
      const std::vector<PackedSymmetric> got = sums.take();
      // The device sums 256 tokens, four products of each, in f32; the CPU the tokens of a sequence.
      const double error = model == pair.cpu ? static_cast<double>(lengths[shape] + 8) * kUlp
                                             : 2 * kHalves + 4 * (256 + 8) * kUlp;
      for (size_t s = 0; s < widths.size(); ++s) {
        CHECK_EQUAL(got[s].n, widths[s]);
        for (size_t i = 0; i < expected[s].size(); ++i) {
          CHECK_NEAR(got[s].values[i], expected[s][i].value, error * expected[s][i].size);
        }
      }
    }
  }
}

TEST("emulated CUDA: curves of projections with one input, of all ranks and of fewer") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const emulated::Pair pair = models(*plugin);
  const Job job;
  constexpr int64_t kInputs = 50, kTokens = 37;
  struct One {
    int64_t m, rank;
    std::vector<float> u, v, w, g;
  };
  check::Random random(3);
  std::vector<One> ones;
  std::vector<BackendCurve> of;
  for (const auto& [m, rank] : {std::pair<int64_t, int64_t>{30, 30}, {70, 12}, {9, 1}}) {
    ones.push_back({m, rank, random.floats(rank * m), random.floats(rank * kInputs), random.floats(m * kInputs),
                    rowsOf(random, kTokens, m)});
  }
  const std::vector<float> x = rowsOf(random, kTokens, kInputs);
  for (const One& one : ones) {
    const bool all = one.rank == std::min(one.m, kInputs);
    of.push_back({one.m, one.rank, one.u.data(), one.v.data(), all ? nullptr : one.w.data()});
  }
  for (const auto& model : {pair.cpu, pair.cuda}) {
    const DeviceWork work(*model, job);
    const Curves curves(work, kInputs, of);
    std::vector<std::vector<double>> got;
    std::vector<const float*> g;
    std::vector<double*> out;
    for (const One& one : ones) {
      got.emplace_back(static_cast<size_t>(one.rank + 1), 0.25);
      g.push_back(one.g.data());
    }
    for (auto& curve : got) out.push_back(curve.data());
    curves.add(x.data(), g, kTokens, out);
    // Of a dot product's size, at the device three products of halves.
    const auto errorOf = [&](int64_t width) {
      const double sums = static_cast<double>(width + 8) * kUlp;
      return model == pair.cpu ? sums : 3 * kHalves + 3 * sums;
    };
    for (size_t i = 0; i < ones.size(); ++i) {
      const One& one = ones[i];
      std::vector<double> expected(static_cast<size_t>(one.rank + 1), 0.25), errors(expected.size());
      for (int64_t t = 0; t < kTokens; ++t) {
        const float *xt = x.data() + t * kInputs, *gt = one.g.data() + t * one.m;
        double cut = 0, off = 0;
        std::vector<double> terms, sizes;
        for (int64_t j = 0; j < one.rank; ++j) {
          const Sum left = dot(one.u.data() + j * one.m, gt, one.m),
                    right = dot(one.v.data() + j * kInputs, xt, kInputs);
          terms.push_back(left.value * right.value);
          sizes.push_back((errorOf(one.m) + errorOf(kInputs)) * left.size * right.size * 1.01);
        }
        if (of[i].w) {
          for (int64_t o = 0; o < one.m; ++o) {
            const Sum wx = dot(one.w.data() + o * kInputs, xt, kInputs);
            cut += static_cast<double>(gt[o]) * wx.value;
            off += std::abs(static_cast<double>(gt[o])) * wx.size * (errorOf(kInputs) + errorOf(one.m));
          }
          for (int64_t j = 0; j < one.rank; ++j) {
            cut -= terms[static_cast<size_t>(j)];
            off += sizes[static_cast<size_t>(j)];
          }
        }
        for (int64_t r = one.rank; r >= 0; --r) {
          const auto at = static_cast<size_t>(r);
          expected[at] += 0.5 * cut * cut;
          errors[at] += std::abs(cut) * off + 0.5 * off * off;
          if (r == 0) continue;
          cut += terms[at - 1];
          off += sizes[at - 1];
        }
      }
      for (size_t r = 0; r < expected.size(); ++r) {
        CHECK_NEAR(got[i][r], expected[r], errors[r] + 1e-12 * expected[r]);
      }
    }
  }
}

TEST("emulated CUDA: factors of every shape and whitening are optimal at every rank") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const Job job;
  const DeviceWork work(*models(*plugin).cuda, job);
  const int64_t shapes[][2] = {{1, 9}, {9, 1}, {24, 40}, {40, 24}, {32, 32}};
  for (const auto& [m, n] : shapes) {
    for (int whitening = 0; whitening < 4; ++whitening) {
      checkAllRanks(work, Problem(7, m, n, 2 * n + 2, 2 * m + 2, 0, whitening));
    }
  }
  // Moments whose eigenvalues span eight powers of ten, and a wide side's that is singular.
  checkAllRanks(work, Problem(8, 20, 33, 80, 80, 4, 3));
  checkAllRanks(work, Problem(9, 33, 20, 80, 80, 4, 3));
  checkAllRanks(work, Problem(10, 20, 38, 11, 50, 0, 3));
}

TEST("emulated CUDA: factors by a moment seen through W are those by the moment itself") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const Job job;
  const DeviceWork work(*models(*plugin).cuda, job);
  for (const auto& [m, n] : {std::pair<int64_t, int64_t>{30, 18}, {18, 30}}) {
    const Problem problem(17, m, n, 90, 90, 0, 3);
    const bool tall = m > n;
    const int64_t thin = std::min(m, n);
    // W^T B W, or W A W^T.
    const whitened::Matrix w = reference::fromFloats(problem.w.data(), m, n);
    const PackedSymmetric seen = reference::moment(
        tall ? reference::product(problem.g, w) : reference::product(problem.x, reference::transpose(w)));
    for (const bool withThin : {true, false}) {
      FactorOptions options;
      options.rank = thin;
      const SymmetricView a = tall && withThin ? &problem.a : nullptr,
                          b = !tall && withThin ? &problem.b : nullptr;
      const auto factors = work.factors(problem.w.data(), m, n, a, b, &seen, options);
      Problem same = problem;
      same.useA = !tall || withThin;
      same.useB = tall || withThin;
      const std::vector<double> best = optimalErrors(same.singular(), thin);
      for (int64_t r = 0; r <= thin; ++r) {
        const double optimum = best[static_cast<size_t>(r)];
        CHECK_NEAR(same.error(factors.u.get(), factors.v.get(), r), optimum, 1e-4 * optimum + 1e-6 * best[0]);
      }
    }
  }
}

TEST("emulated CUDA: a thin side's moment that is singular takes jitter, and as much as it needs") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const emulated::Pair pair = models(*plugin);
  const Job job;
  const Problem problem(12, 20, 48, 100, 8, 0, 3);
  const std::vector<double> best = optimalErrors(problem.singular(), 20);
  for (const double jitter : {1e-8, 0.0}) {
    FactorOptions options;
    options.jitter = jitter;
    const auto factors = factorsOf(DeviceWork(*pair.cuda, job), problem, options);
    for (int64_t r = 0; r <= 20; ++r) {
      const double optimum = best[static_cast<size_t>(r)];
      CHECK_NEAR(problem.error(factors.u.get(), factors.v.get(), r), optimum, 1e-4 * (optimum + best[0]));
    }
  }
  // Below zero by what sums in f32 leave: more jitter than was asked for, and what the CPU makes of it.
  Problem broken = problem;
  const double mean = broken.b.meanDiagonal();
  for (int64_t i = 0; i < 20; ++i) broken.b.values[static_cast<size_t>(i * (i + 1) / 2 + i)] -= 3e-7 * mean;
  const auto cpu = factorsOf(DeviceWork(*pair.cpu, job), broken),
             cuda = factorsOf(DeviceWork(*pair.cuda, job), broken);
  for (size_t i = 0; i < 20; ++i) CHECK_NEAR(cuda.singular[i], cpu.singular[i], 1e-6 * cpu.singular[0]);
}

TEST(
    "emulated CUDA: randomised factors are within a hundredth of the optimum, and of what a seed gives the "
    "CPU") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const emulated::Pair pair = models(*plugin);
  const Job job;
  for (const auto& [m, n] : {std::pair<int64_t, int64_t>{40, 56}, {56, 40}}) {
    const Problem problem(14, m, n, 150, 150, 2, 3);
    FactorOptions options;
    options.randomised = true;
    options.rank = 10;
    options.oversampling = 8;
    options.seed = 5;
    const auto cpu = factorsOf(DeviceWork(*pair.cpu, job), problem, options),
               cuda = factorsOf(DeviceWork(*pair.cuda, job), problem, options);
    const std::vector<double> best = optimalErrors(problem.singular(), 10);
    for (int64_t r = 0; r <= 10; ++r) {
      const double optimum = best[static_cast<size_t>(r)];
      CHECK_AT_MOST(problem.error(cuda.u.get(), cuda.v.get(), r), 1.01 * optimum);
    }
    for (size_t i = 0; i < 10; ++i) CHECK_NEAR(cuda.singular[i], cpu.singular[i], 1e-6 * cpu.singular[0]);
  }
}

TEST("emulated CUDA: pivots are those of the CPU, and R to rounding and the signs of its rows") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const emulated::Pair pair = models(*plugin);
  const Job job;
  struct Shape {
    int64_t s, m, rank;
  };
  for (const auto& [s, m, rank] : {Shape{1, 6, 1}, Shape{14, 40, 14}, Shape{20, 20, 20}, Shape{12, 50, 7}}) {
    check::Random random(static_cast<uint64_t>(m));
    std::vector<float> u = random.floats(s * m);
    // Ranks behind `rank` repeat those before, at other lengths.
    for (int64_t i = rank * m; i < s * m; ++i)
      u[static_cast<size_t>(i)] = 4 * u[static_cast<size_t>(i - rank * m)];
    struct Found {
      int64_t rank = 0;
      std::vector<int32_t> column, place;
      std::vector<double> r;
      double at(int64_t i, int64_t output) const {
        return r[static_cast<size_t>(place[static_cast<size_t>(output)] * rank + i)];
      }
    };
    const auto find = [&](const Model& model, int64_t ranks, int64_t outputs) {
      Found found;
      found.column.resize(static_cast<size_t>(outputs));
      found.place.resize(static_cast<size_t>(outputs), -1);
      found.r.resize(static_cast<size_t>(ranks * outputs));
      found.rank =
          DeviceWork(model, job).pivotedQr(u.data(), ranks, outputs, found.r.data(), found.column.data());
      for (size_t j = 0; j < found.column.size(); ++j)
        found.place.at(static_cast<size_t>(found.column[j])) = static_cast<int32_t>(j);
      return found;
    };
    const Found cpu = find(*pair.cpu, s, m), cuda = find(*pair.cuda, s, m);
    CHECK_EQUAL(cpu.rank, rank);
    CHECK_EQUAL(cuda.rank, rank);
    for (int64_t i = 0; i < rank; ++i) {
      const int32_t pivot = cpu.column[static_cast<size_t>(i)];
      CHECK_EQUAL(cuda.column[static_cast<size_t>(i)], pivot);
      const double sign = cuda.at(i, pivot) * cpu.at(i, pivot) < 0 ? -1 : 1;
      for (int64_t j = 0; j < m; ++j)
        CHECK_NEAR(cuda.at(i, j), sign * cpu.at(i, j), 1e-12 * static_cast<double>(m));
    }
  }
  std::vector<float> broken(12, 1.0f);
  broken[5] = std::numeric_limits<float>::infinity();
  std::vector<double> r(12);
  std::vector<int32_t> column(6);
  CHECK_THROWS("E_NUMERIC",
               DeviceWork(*pair.cuda, job).pivotedQr(broken.data(), 2, 6, r.data(), column.data()));
  CHECK_THROWS("E_ABORTED",
               DeviceWork(*pair.cuda, cancelled()).pivotedQr(broken.data(), 2, 6, r.data(), column.data()));
}

TEST(
    "emulated CUDA: what no factors can be made of, or takes too much memory, is told; what is cancelled "
    "ends") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const auto model = models(*plugin).cuda;
  const Job job;
  const DeviceWork work(*model, job), aborted(*model, cancelled());
  const Problem good(15, 20, 30, 60, 60, 0, 3);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Problem bad = good;
  bad.w[77] = nan;
  CHECK_THROWS("E_NUMERIC", factorsOf(work, bad));
  for (PackedSymmetric Problem::*moment : {&Problem::a, &Problem::b}) {
    bad = good;
    (bad.*moment).values[3] = static_cast<double>(nan);
    CHECK_THROWS("E_NUMERIC", factorsOf(work, bad));
  }
  bad = good;
  bad.b = PackedSymmetric(20);
  CHECK_THROWS("E_NUMERIC", factorsOf(work, bad));
  bad = good;
  bad.b.values[0] *= -1;
  CHECK_THROWS("E_NUMERIC", factorsOf(work, bad));

  CHECK_THROWS("E_ABORTED", factorsOf(aborted, good));
  MomentSums sums(aborted, {4});
  const std::vector<float> rows(40);
  CHECK_THROWS("E_ABORTED", sums.add({rows.data()}, 10));
  const Curves curves(aborted, 4, {{4, 1, rows.data(), rows.data(), rows.data()}});
  double curve[2] = {};
  CHECK_THROWS("E_ABORTED", curves.add(rows.data(), {rows.data()}, 2, {curve}));

  // Larger than the emulator's memory; nothing of it is touched.
  const auto refused = [&](const auto& call) {
    BackendFailure failure{};
    CHECK(call(&failure) == BackendCode::outOfMemory);
    CHECK(std::string(failure.message).find("device cpu") != std::string::npos);
  };
  const int64_t wide = 100'000;
  double* nowhere = nullptr;
  const BackendCancel cancel = cancelOf(job);
  refused([&](BackendFailure* failure) {
    DeviceMoments* made = nullptr;
    return plugin->createMoments(work.weights(), &wide, &nowhere, 1, &made, failure);
  });
  refused([&](BackendFailure* failure) {
    BackendFactoring factoring{};
    factoring.m = factoring.n = factoring.rank = wide;
    return plugin->factorize(work.weights(), &factoring, &cancel, failure);
  });
  refused([&](BackendFailure* failure) {
    DeviceCurves* made = nullptr;
    const BackendCurve of{wide, 20'000, nullptr, nullptr, nullptr};
    return plugin->createCurves(work.weights(), wide, &of, 1, &made, failure);
  });
}

namespace {

// Of moments and what is made of them, as parts of the largest: sums of up to 40 tokens in f32, and what the
// passes of two layers and the head are off by, one behind the other, at either side, of inputs and of
// gradients.
constexpr double kMoments = 4 * (40 * kUlp + 3 * emulated::kPass);
// As parts of what they are, squares of products of an input and a gradient.
constexpr double kProducts = 4 * emulated::kPass;

double square(double value) { return value * value; }

NestedFactors factorsOf(const Calibration& calibration, size_t projection, int64_t m, int64_t n) {
  std::vector<float> scratch;
  NestedFactors factors{m, n, calibration.ranks[projection], {}, {}, {}, 0};
  const float* u = calibration.factors->get(2 * projection, scratch);
  factors.u.assign(u, u + factors.rank * m);
  const float* v = calibration.factors->get(2 * projection + 1, scratch);
  factors.v.assign(v, v + factors.rank * n);
  return factors;
}

// What factors of an input moment that is summed whole leave of W under it, at every rank.
void checkTruncation(const Model& model, size_t projection, const Calibration& cpu, const Calibration& cuda,
                     const PackedSymmetric& moment) {
  const Linear& linear = model.projection(static_cast<int64_t>(projection));
  const std::vector<float> w = widenRows(*linear.dense, 1);
  std::vector<int64_t> ranks;
  for (int64_t r = 0; r <= cpu.ranks[projection]; ++r) ranks.push_back(r);
  const auto errorsOf = [&](const Calibration& calibration) {
    return truncationErrors(w.data(), factorsOf(calibration, projection, linear.outputs, linear.inputs),
                            &moment, nullptr, ranks);
  };
  const std::vector<double> got = errorsOf(cuda), expected = errorsOf(cpu);
  for (size_t r = 0; r < got.size(); ++r)
    CHECK_NEAR(square(got[r]), square(expected[r]), kMoments * square(expected[0]));
}

void checkCalibration(const emulated::Pair& pair, const CalibrationOptions& options) {
  std::vector<LayerMoments> moments(static_cast<size_t>(pair.cpu->config.layers));
  const auto cpu = calibrate(
                 fixture::inF32(*pair.cpu), options, Job(),
                 [&](int64_t layer, const LayerMoments&of) { moments[static_cast<size_t>(layer)] = of; }),
             cuda = calibrate(pair.cuda, options, Job());
  CHECK_NEAR(cuda->meanLoss, cpu->meanLoss, emulated::kPass * cpu->meanLoss);
  for (size_t i = 0; i < cpu->scores.size(); ++i) {
    const auto &got = cuda->scores[i], &expected = cpu->scores[i];
    // Products of two numbers that passes leave, squared.
    CHECK_NEAR(got.weighted, expected.weighted, kProducts * expected.weighted);
    CHECK_NEAR(got.gradient, expected.gradient, kProducts * expected.gradient);
    CHECK_NEAR(got.taylor, expected.taylor, kProducts / 2 * expected.taylor);
    CHECK_EQUAL(cuda->ranks[i], cpu->ranks[i]);
    for (size_t j = 0; j < cpu->singular[i].size(); ++j) {
      CHECK_NEAR(square(cuda->singular[i][j]), square(cpu->singular[i][j]),
                 kMoments * square(cpu->singular[i][0]));
    }
    CHECK_EQUAL(cuda->curves[i].size(), cpu->curves[i].size());
    // At rank 0 there may be nothing: what is normed afterwards does not depend on W's scale.
    const double most = *std::max_element(cpu->curves[i].begin(), cpu->curves[i].end());
    for (size_t r = 0; r < cpu->curves[i].size(); ++r) {
      // Of such products, too, and of factors.
      CHECK_NEAR(cuda->curves[i][r], cpu->curves[i][r], 2 * kProducts * most);
    }
    const auto p = static_cast<int>(i % kProjections);
    if (options.whitening != Whitening::input ||
        inputSeenThrough(pair.cpu->config, static_cast<int64_t>(i) / kProjections, p))
      continue;
    const LayerMoments& of = moments[i / kProjections];
    checkTruncation(*pair.cpu, i, *cpu, *cuda, of.inputs[static_cast<size_t>(inputIndex(p))]);
  }
  for (int64_t slot = 0; options.keepInputMoments && slot < pair.cpu->config.layers * kInputs; ++slot) {
    const auto at = static_cast<size_t>(slot);
    std::vector<float> scratch, other;
    const float *got = cuda->inputMoments->get(at, scratch), *expected = cpu->inputMoments->get(at, other);
    CHECK_EQUAL(cuda->inputMoments->count(at), cpu->inputMoments->count(at));
    float largest = 0;
    for (size_t j = 0; j < cpu->inputMoments->count(at); ++j)
      largest = std::max(largest, std::abs(expected[j]));
    for (size_t j = 0; j < cpu->inputMoments->count(at); ++j)
      CHECK_NEAR(got[j], expected[j], kMoments * static_cast<double>(largest));
  }
}

}  // namespace

TEST("emulated CUDA: a calibration of layers whose MLPs have fewer channels finds what it finds on the CPU") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  // On both sides of the hidden size.
  const Dropped of("qwen2", {37, 19}, 1);
  CalibrationOptions options = optionsOf(Whitening::twoSided);
  options.keepInputMoments = true;
  options.shrinkage = {0.2, 0.1};
  checkCalibration(emulated::both(*plugin, of.narrow, Dtype::bf16), options);
}

TEST("emulated CUDA: a calibration finds what it finds on the CPU, by every whitening") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const emulated::Pair pair = models(*plugin);
  for (const Whitening whitening : {Whitening::none, Whitening::scaled, Whitening::input}) {
    CalibrationOptions options = optionsOf(whitening);
    options.curves = false;
    checkCalibration(pair, options);
  }
  CalibrationOptions options = optionsOf(Whitening::twoSided);
  options.keepInputMoments = true;
  checkCalibration(pair, options);
  options.shrinkage = {0.2, 0.1};
  options.randomisedRank = 6;
  options.memory = 1;
  checkCalibration(pair, options);
}

TEST("emulated CUDA: the channels of MLPs cost what they cost on the CPU") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const emulated::Pair pair = models(*plugin);
  ChannelOptions options;
  static_cast<PassText&>(options) = optionsOf(Whitening::twoSided);
  options.shrinkage = {0.1, 0.5};
  options.group = 4;
  options.memory = 1 << 30;
  options.scratch = "/tmp";
  const auto cpu = rankChannels(fixture::inF32(*pair.cpu), options, Job()),
             cuda = rankChannels(pair.cuda, options, Job());
  CHECK_NEAR(cuda->meanLoss, cpu->meanLoss, emulated::kPass * cpu->meanLoss);
  for (size_t l = 0; l < cpu->layers.size(); ++l) {
    const std::vector<double>&got = cuda->layers[l].costs, &expected = cpu->layers[l].costs;
    CHECK_EQUAL(got.size(), expected.size());
    for (size_t k = 0; k < expected.size(); ++k)
      CHECK_NEAR(got[k], expected[k], 2 * kProducts * expected.back());
  }
}

TEST("emulated CUDA: moments shrunk where passes add them up are those of what passes leave") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const emulated::Pair pair = models(*plugin);
  CalibrationOptions options = optionsOf(Whitening::twoSided);
  options.shrinkage = {0.2, 0.1};
  const auto momentsOf = [&](std::vector<LayerMoments>& all) {
    all.resize(static_cast<size_t>(pair.cuda->config.layers));
    return calibrate(pair.cuda, options, Job(), [&](int64_t layer, const LayerMoments& of) {
      LayerMoments& to = all[static_cast<size_t>(layer)];
      for (size_t i = 0; i < of.inputs.size(); ++i)
        if (!of.inputs[i].values.empty()) to.inputs[i] = of.inputs[i];
      for (size_t i = 0; i < of.gradients.size(); ++i)
        if (!of.gradients[i].values.empty()) to.gradients[i] = of.gradients[i];
    });
  };
  std::vector<LayerMoments> inPlace, left;
  CHECK(momentsOf(inPlace)->seconds.moments == 0);
  options.memory = 1;
  CHECK(momentsOf(left)->seconds.moments > 0);
  const auto check = [](const PackedSymmetric& got, const PackedSymmetric& expected) {
    CHECK_EQUAL(got.values.size(), expected.values.size());
    double most = 0;
    for (const double value : expected.values) most = std::max(most, std::abs(value));
    // Norms that clip, and squares of columns, are summed in another order.
    for (size_t i = 0; i < expected.values.size(); ++i)
      CHECK_NEAR(got.values[i], expected.values[i], 0x1p-17 * most);
  };
  for (size_t l = 0; l < left.size(); ++l) {
    for (size_t i = 0; i < left[l].inputs.size(); ++i) check(inPlace[l].inputs[i], left[l].inputs[i]);
    for (size_t i = 0; i < left[l].gradients.size(); ++i) check(inPlace[l].gradients[i], left[l].gradients[i]);
  }
}

TEST("emulated CUDA: two sequences under way find what one at a time finds, bit for bit") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  CalibrationOptions options = optionsOf(Whitening::twoSided);
  options.shrinkage = {0.2, 0.1};
  options.lengths = {16, 9, 21, 3, 14, 7};
  const auto found = [&](int threads) {
    return calibrate(emulated::both(*plugin, fixture::spec("qwen2", threads), Dtype::bf16).cuda, options,
                     Job());
  };
  const auto one = found(1), two = found(2);
  CHECK(one->limits.sequences == 1 && two->limits.sequences == 2);
  CHECK(two->curves == one->curves);
  CHECK(two->singular == one->singular);
  for (size_t p = 0; p < one->scores.size(); ++p) {
    CHECK_EQUAL(two->scores[p].weighted, one->scores[p].weighted);
  }
}

TEST("emulated CUDA: calibrations of other architectures, by labels of the text and of the model") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  for (const auto& [name, labels] : {std::pair{"mistral", Labels::data}, {"qwen3", Labels::model}}) {
    CalibrationOptions options = optionsOf(Whitening::twoSided);
    options.labels = labels;
    if (labels == Labels::model) {
      // So few that rounding leaves each of them the label that the CPU draws.
      options.lengths = {12, 9};
      options.tokens.resize(21);
    }
    checkCalibration(models(*plugin, name), options);
  }
}
