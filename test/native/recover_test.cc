// Recovery against PyTorch's autograd in float64 (test/fixtures/pytorch/recover.safetensors), against the
// difference quotient of its own loss, and at other thread counts.
#include "recover/recover.h"

#include <cmath>
#include <map>

#include "check.h"
#include "core/state_file.h"
#include "fixture.h"
#include "linalg/bf16_gemm.h"
#include "model/window_losses.h"
#include "temporary.h"

using flrc::Job;
using flrc::Recovery;
using flrc::RecoveryOptions;
using flrc::RecoveryStep;

namespace {

const RecoveryStep kSteps[] = {
    {{0, 1}, 0, {0.9, 0.99}, 0.01, 0.3},
    {{2, 3}, 1, {0.9, 0.99}, 0.01, 0.1},
    {{3, 1}, 0, {0.9, 0.99}, 0.01, 1e9},
};

struct Case {
  fixture::Fixture dense;
  std::map<std::string, fixture::Array> expected;
  std::shared_ptr<const flrc::Model> start;
  std::vector<std::string> matrices;  // in the order of the state: P, C of each block; V, U
};

Case makeCase(int threads) {
  Case of{fixture::load(fixture::kTwoLevelsOf, threads),
          fixture::arrays(fixture::kTwoLevels),
          fixture::twoLevels(threads),
          {}};
  for (int64_t i = 0; i < of.start->projectionCount(); ++i) {
    if (of.start->levels[0][static_cast<size_t>(i)] < 0) continue;
    const std::string name =
        flrc::projectionName(i / flrc::kProjections, static_cast<int>(i % flrc::kProjections));
    const std::vector<std::string> pivoted = {".P.0", ".C.0", ".P.1", ".C.1"}, plain = {".V", ".U"};
    for (const std::string& suffix : of.expected.count(name + ".V") ? plain : pivoted) {
      of.matrices.push_back(name + suffix);
    }
  }
  return of;
}

RecoveryOptions options(const Case& of) {
  RecoveryOptions options;
  options.tokens = of.dense.tokens;
  options.lengths.assign(static_cast<size_t>(of.dense.sequences), static_cast<int32_t>(of.dense.length));
  options.dtype = flrc::Dtype::f32;
  options.memory = 1 << 30;
  options.scratch = temporary::folder();
  return options;
}

std::unique_ptr<Recovery> recovery(const Case& of, const RecoveryOptions& options) {
  return std::make_unique<Recovery>(of.start, of.dense.model, options, Job());
}

struct Trained {
  std::vector<float> values, mean, square;
};

// By matrix, what the state file says of it.
std::map<std::string, Trained> stateOf(const Case& of, Recovery& recovery) {
  const temporary::File file;
  const Job job;
  recovery.save(file.path, "a note", job);
  flrc::StateReader from(file.path, job);
  CHECK_EQUAL(from.note(), std::string("a note"));
  std::map<std::string, Trained> state;
  for (size_t i = 0; i < of.matrices.size(); ++i) {
    const auto& shape = of.expected.at(of.matrices[i]).shape;
    Trained& to = state[of.matrices[i]];
    for (auto* part : {&to.values, &to.mean, &to.square}) {
      part->resize(static_cast<size_t>(shape[0] * shape[1]));
      from.read(part->data(), part->size() * sizeof(float));
    }
    std::vector<int32_t> steps(static_cast<size_t>(shape[0]));
    if (i % 2 == 1) from.read(steps.data(), steps.size() * sizeof(int32_t));
  }
  CHECK_EQUAL(from.remaining(), size_t{0});
  return state;
}

double squared(double value) { return value * value; }

// || got - expected || <= tolerance || expected - from ||
void checkNear(const std::vector<float>& got, const std::vector<double>& expected,
               const std::vector<double>& from, double tolerance) {
  CHECK_EQUAL(got.size(), expected.size());
  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += squared(got[i] - expected[i]);
    norm += squared(expected[i] - (from.empty() ? 0.0 : from[i]));
  }
  CHECK(norm > 0);
  CHECK_AT_MOST(std::sqrt(error), tolerance * std::sqrt(norm));
}

}  // namespace

TEST("recover: the loss, its gradient and three steps of Adam at two levels are PyTorch's") {
  const Case of = makeCase(2);
  const auto recovery = ::recovery(of, options(of));
  const std::vector<double>& figures = of.expected.at("figures").values;
  for (size_t i = 0; i < 3; ++i) {
    const auto before = recovery->evaluate(kSteps[i].windows, kSteps[i].level, Job());
    const auto got = recovery->step(kSteps[i], Job());
    CHECK_EQUAL(got.kl, before.kl);
    CHECK_NEAR(got.kl, figures[i * 3], 2e-5 * figures[i * 3]);
    CHECK_NEAR(got.rate, figures[i * 3 + 1], 1e-4 * figures[i * 3 + 1]);
    CHECK_NEAR(got.loss, figures[i * 3 + 2], 2e-5 * figures[i * 3 + 2]);
  }
  const auto state = stateOf(of, *recovery);
  CHECK(state.size() > 10);
  for (const auto& [name, got] : state) {
    checkNear(got.mean, of.expected.at("mean." + name).values, {}, 1e-4);
    checkNear(got.square, of.expected.at("square." + name).values, {}, 1e-4);
    // The first step of Adam is the gradient's sign alone, which rounding decides where it is nearly 0.
    checkNear(got.values, of.expected.at("after." + name).values, of.expected.at(name).values, 1e-2);
  }
}

TEST("recover: a small step changes the loss by what its gradient says") {
  const Case of = makeCase(2);
  const auto recovery = ::recovery(of, options(of));
  const std::vector<int32_t> windows = {0, 1, 2, 3};
  const double change = 0.002;
  const double before = recovery->evaluate(windows, 0, Job()).kl;
  CHECK(recovery->step({windows, 0, {0.9, 0.99}, 1, change}, Job()).rate < 1);
  const double changed = recovery->evaluate(windows, 0, Job()).kl - before;
  double expected = 0;
  for (const auto& [name, got] : stateOf(of, *recovery)) {
    const auto& start = of.expected.at(name).values;
    for (size_t i = 0; i < got.values.size(); ++i) expected += (got.values[i] - start[i]) * got.mean[i] / 0.1;
  }
  // Every weight steps against its gradient at first, so the change is the whole of what is allowed.
  CHECK_NEAR(expected, -change * before, 1e-3 * change * before);
  CHECK_NEAR(changed, expected, 0.03 * std::abs(expected));
}

TEST("recover: thread counts, scratch files and dropped activations change no byte") {
  const Case one = makeCase(1), two = makeCase(2);
  RecoveryOptions spilling = options(two);
  spilling.memory = 1000;
  const auto a = recovery(one, options(one)), b = recovery(two, spilling);
  for (const RecoveryStep& step : kSteps) {
    const auto left = a->step(step, Job()), right = b->step(step, Job());
    CHECK_EQUAL(left.kl, right.kl);
    CHECK_EQUAL(left.rate, right.rate);
  }
  const auto left = stateOf(one, *a), right = stateOf(two, *b);
  for (const auto& [name, of] : left) CHECK(of.values == right.at(name).values);
}

TEST("recover: a loaded state goes on as if never left, and what was kept is what is finished") {
  const Case of = makeCase(2);
  const auto whole = recovery(of, options(of)), first = recovery(of, options(of)),
             second = recovery(of, options(of));
  const temporary::File file;
  first->step(kSteps[0], Job());
  first->keep();
  first->step(kSteps[1], Job());
  first->save(file.path, "note", Job());
  CHECK_EQUAL(second->load(file.path, Job()), std::string("note"));
  for (const RecoveryStep& step : kSteps) whole->step(step, Job());
  CHECK_EQUAL(second->step(kSteps[2], Job()).kl, first->step(kSteps[2], Job()).kl);
  CHECK_EQUAL(whole->evaluate({0}, 0, Job()).kl, second->evaluate({0}, 0, Job()).kl);

  const auto once = recovery(of, options(of));
  once->step(kSteps[0], Job());
  const auto kept = second->finish(Job()), expected = once->finish(Job());
  for (int64_t i = 0; i < kept->projectionCount(); ++i) {
    const flrc::Linear &got = kept->projection(i), &want = expected->projection(i);
    CHECK_EQUAL(got.blocks.size(), want.blocks.size());
    for (size_t b = 0; b < got.blocks.size(); ++b) {
      std::vector<float> left(static_cast<size_t>(got.inputs)), right(left.size());
      for (int64_t j = 0; j < got.blocks[b]->rank(); ++j) {
        flrc::getRow(got.blocks[b]->p, j, left.data());
        flrc::getRow(want.blocks[b]->p, j, right.data());
        CHECK(left == right);
      }
    }
  }
}

TEST("recover: a finished model of every dtype has the loss that training saw") {
  const Case of = makeCase(2);
  for (flrc::Dtype dtype : {flrc::Dtype::f32, flrc::Dtype::bf16, flrc::Dtype::int8, flrc::Dtype::int4}) {
    RecoveryOptions options = ::options(of);
    options.dtype = dtype;
    const auto trained = recovery(of, options);
    trained->step(kSteps[0], Job());
    const double seen = trained->evaluate({0, 1}, 1, Job()).loss;
    const auto model = trained->finish(Job());
    CHECK(model->dtype == dtype);
    const std::vector<int32_t> tokens(of.dense.tokens.begin(), of.dense.tokens.begin() + 2 * of.dense.length);
    double total = 0;
    for (double loss : flrc::windowLosses(*model, tokens, of.dense.length, 1, Job())) total += loss;
    CHECK_NEAR(total / static_cast<double>(2 * (of.dense.length - 1)), seen, 1e-9 * seen);
  }
}

TEST("recover: steps in bf16 have the gradients of f32, but for what rounding leaves") {
  Case of = makeCase(2);
  RecoveryOptions narrow = options(of);
  narrow.dtype = flrc::Dtype::bf16;
  // Values that bf16 holds exactly, for both.
  of.start = recovery(of, narrow)->finish(Job());
  const auto rounding = recovery(of, narrow), exact = recovery(of, options(of));
  const auto got = rounding->step(kSteps[0], Job()), expected = exact->step(kSteps[0], Job());
  // A chain of products, each of which adds 2^-8 of its size at most: eight a layer forward and as many back,
  // and those with the head.
  const double tolerance = static_cast<double>(16 * of.start->config.layers + 4) * 0x1p-8;
  CHECK_NEAR(got.kl, expected.kl, tolerance * expected.kl);
  const auto left = stateOf(of, *rounding), right = stateOf(of, *exact);
  double difference = 0;
  for (const auto& [name, state] : left) {
    const std::vector<float>& mean = right.at(name).mean;
    checkNear(state.mean, {mean.begin(), mean.end()}, {}, tolerance);
    for (size_t i = 0; i < mean.size(); ++i) difference += std::abs(state.mean[i] - mean[i]);
  }
  CHECK_EQUAL(difference > 0, flrc::multipliesBf16());
}

TEST("recover: what cannot be used is refused, and divergence is E_NUMERIC") {
  const Case of = makeCase(2);
  const auto recovery = ::recovery(of, options(of));
  for (const std::vector<int32_t>& windows : {std::vector<int32_t>{}, {0, 0}, {-1}, {4}}) {
    CHECK_THROWS(flrc::code::internal, recovery->evaluate(windows, 0, Job()));
  }
  CHECK_THROWS(flrc::code::internal, recovery->evaluate({0}, 2, Job()));
  Job cancelled;
  cancelled.cancel();
  CHECK_THROWS(flrc::code::aborted, recovery->step(kSteps[0], cancelled));
  const temporary::File file;
  CHECK_THROWS(flrc::code::io, recovery->load(temporary::folder() + "/no/such/file", Job()));
  {
    const Job job;
    flrc::StateWriter writer(file.path, "note", job);
    writer.write("short", 5);
    writer.finish();
  }
  CHECK_THROWS(flrc::code::modelFormat, recovery->load(file.path, Job()));
  RecoveryStep wild = kSteps[0];
  wild.rate = wild.change = 1e30;
  CHECK_THROWS(flrc::code::numeric, {
    recovery->step(wild, Job());
    recovery->step(wild, Job());
  });
}
