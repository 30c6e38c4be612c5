// Passes of whole sequences on the CUDA plugin, built for the emulator, against the CPU's.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <map>
#include <thread>

#include "calibrate/calibrate.h"
#include "calibrate/device_work.h"
#include "check.h"
#include "dropped.h"
#include "emulated.h"
#include "fixture.h"
#include "linalg/moments.h"
#include "model/session.h"
#include "model/wide_layer.h"

using namespace flrc;

namespace {

using Pointer = std::shared_ptr<const Model>;
using Values = std::vector<float>;

using emulated::kPass;

// bf16's rounding, of inputs and gradients, in scores.
constexpr double kRounded = 0x1p-8;

Values activations(const Model& model, int64_t tokens, uint64_t seed) {
  check::Random random(seed);
  return random.floats(tokens * model.config.hidden);
}

double norm(const Values& values) {
  double squares = 0;
  for (float value : values) squares += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(squares);
}

void checkNear(const Values& got, const Values& expected, double error) {
  CHECK_EQUAL(got.size(), expected.size());
  Values off(expected.size());
  for (size_t i = 0; i < off.size(); ++i) off[i] = got[i] - expected[i];
  CHECK_AT_MOST(norm(off), error * norm(expected));
}

// All that a layer's pass of a sequence gives.
struct Passed {
  Values y, dx;
  std::array<FisherScore, kProjections> scores;
  std::map<std::pair<BackendTape, int>, Values> tapes;
};

TapeKeeper keeperOf(Passed& passed) {
  TapeKeeper keeper;
  for (int tape = 0; tape < kBackendTapes; ++tape) {
    for (int p = 0; p < kProjections; ++p) keeper.want(static_cast<BackendTape>(tape), p);
  }
  keeper.put = [&](BackendTape tape, int p, const float* values, int64_t count) {
    passed.tapes[{tape, p}] = Values(values, values + count);
  };
  return keeper;
}

Passed pass(const LayerPass& layer, const Values& x, const Values& dy, int64_t tokens) {
  Passed passed;
  passed.y.resize(x.size());
  passed.dx.resize(x.size());
  layer.forward(x.data(), tokens, passed.y.data());
  layer.backward(x.data(), tokens, dy.data(), passed.dx.data(), &passed.scores, keeperOf(passed));
  return passed;
}

Passed passOf(const Pointer& model, int64_t index, const Values& x, const Values& dy, int64_t tokens,
              int64_t longest, const Job& job = {}) {
  const DeviceWork work(*model, job);
  const WideLayer layer = widen(*model, index, 0);
  return pass(LayerPass(work, layer, index, longest), x, dy, tokens);
}

bool same(const Passed& a, const Passed& b) {
  bool scores = true;
  for (size_t p = 0; p < a.scores.size(); ++p) {
    scores = scores && a.scores[p].weighted == b.scores[p].weighted &&
             a.scores[p].gradient == b.scores[p].gradient && a.scores[p].taylor == b.scores[p].taylor;
  }
  return scores && a.y == b.y && a.dx == b.dx && a.tapes == b.tapes;
}

Job& cancelled() {
  static Job job;
  job.cancel();
  return job;
}

struct HeadResult {
  double loss;
  Values dx;
};

HeadResult headOf(const Pointer& model, const Values& x, const std::vector<int32_t>& ids,
                  const BackendLabels& labels) {
  const Job job;
  const DeviceWork work(*model, job);
  HeadResult result{0, Values(x.size())};
  result.loss = HeadGradients(work).of(x.data(), ids.data(), std::ssize(ids), labels, result.dx.data());
  return result;
}

// Of drawn labels, without the positions, few, at which rounding drew another one, which is another gradient.
void leaveOthersOut(Values& got, Values& expected, int64_t tokens) {
  const auto width = static_cast<std::ptrdiff_t>(std::ssize(got) / tokens);
  int64_t others = 0;
  for (std::ptrdiff_t at = (tokens - 1) * width; at >= 0; at -= width) {
    Values off(expected.begin() + at, expected.begin() + at + width);
    const double half = 0.5 * norm(off);
    for (std::ptrdiff_t i = 0; i < width; ++i) off[static_cast<size_t>(i)] -= got[static_cast<size_t>(at + i)];
    if (norm(off) <= half) continue;
    ++others;
    for (Values* values : {&got, &expected}) values->erase(values->begin() + at, values->begin() + at + width);
  }
  CHECK_AT_MOST(others, 2);
}

std::vector<int32_t> textOf(int32_t tokens) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < tokens; ++i) ids.push_back((7 * i * i + 3) % 96);
  return ids;
}

// A sequence through a layer and back, on both.
void checkPass(const emulated::Pair& pair, int64_t layer) {
  // Longer than a sliding window, and than what attention has at once.
  const int64_t tokens = 70;
  const Values x = activations(*pair.cpu, tokens, 1), dy = activations(*pair.cpu, tokens, 2);
  const Passed cpu = passOf(pair.cpu, layer, x, dy, tokens, tokens),
               cuda = passOf(pair.cuda, layer, x, dy, tokens, 80);
  checkNear(cuda.y, cpu.y, kPass);
  checkNear(cuda.dx, cpu.dx, kPass);
  CHECK_EQUAL(cuda.tapes.size(), cpu.tapes.size());
  for (const auto& [tape, values] : cpu.tapes) checkNear(cuda.tapes.at(tape), values, kPass);
  for (size_t p = 0; p < cpu.scores.size(); ++p) {
    const FisherScore &got = cuda.scores[p], &expected = cpu.scores[p];
    CHECK_NEAR(got.weighted, expected.weighted, 4 * kRounded * expected.weighted);
    CHECK_NEAR(got.gradient, expected.gradient, 4 * kRounded * expected.gradient);
    CHECK_NEAR(got.taylor, expected.taylor, 2 * kRounded * expected.taylor);
  }
}

}  // namespace

TEST("emulated CUDA: every architecture's layers pass sequences as on the CPU, in every dtype") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  int64_t i = 0;
  for (const std::string& name : fixture::names()) {
    const emulated::Pair pair = emulated::both(*plugin, fixture::spec(name, 1), static_cast<Dtype>(1 + i % 3));
    checkPass(pair, i++ % pair.cpu->config.layers);
  }
}

TEST("emulated CUDA: layers whose MLPs have fewer channels pass sequences as on the CPU") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const Dropped of("llama3-scaled", {37, 19}, 1);
  for (const Dtype dtype : {Dtype::bf16, Dtype::int4}) {
    const emulated::Pair pair = emulated::both(*plugin, of.narrow, dtype);
    for (const int64_t layer : {0, 1}) checkPass(pair, layer);
  }
}

TEST("emulated CUDA: sums that passes add to in place are those of what they leave") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  // More than are summed in f32.
  constexpr int64_t kTokens = 300;
  const Pointer model = emulated::both(*plugin, fixture::spec("qwen2", 1), Dtype::bf16).cuda;
  const Job job;
  const DeviceWork work(*model, job);
  const WideLayer layer = widen(*model, 0, 0);
  const LayerPass through(work, layer, 0, kTokens);
  const Values x = activations(*model, kTokens, 1);
  Values dy = activations(*model, kTokens, 2);
  // Tokens whose gradients are clipped.
  for (int64_t i = 0; i < 5 * model->config.hidden; ++i) dy[static_cast<size_t>(i)] *= 100;
  const Passed left = pass(through, x, dy, kTokens);

  SumsInPlace in;
  in.rows = {{BackendTape::input, kO},
             {BackendTape::gradient, kV},
             {BackendTape::passedBack, kUp},
             {BackendTape::passedOn, kDown}};
  std::vector<int64_t> widths;
  std::vector<Values> rows;
  for (const auto& [tape, p] : in.rows) {
    Values values = left.tapes.at({tape, p});
    widths.push_back(std::ssize(values) / kTokens);
    if (tape == BackendTape::gradient || tape == BackendTape::passedBack) {
      const Values& g = left.tapes.at({BackendTape::gradient, p});
      const Values factors = clipFactors(g.data(), kTokens, std::ssize(g) / kTokens);
      CHECK(std::any_of(factors.begin(), factors.end(), [](float factor) { return factor < 1; }));
      for (size_t i = 0; i < values.size(); ++i) values[i] *= factors[i / static_cast<size_t>(widths.back())];
    }
    rows.push_back(std::move(values));
  }
  MomentSums expected(work, widths), got(work, widths);
  expected.add({rows[0].data(), rows[1].data(), rows[2].data(), rows[3].data()}, kTokens);
  in.moments = &got;
  // Of a wide side each, with gradients that are clipped, and added to what is there.
  in.squared = {{BackendTape::input, kDown}, {BackendTape::gradient, kUp}};
  std::vector<std::vector<double>> squares(
      2, std::vector<double>(static_cast<size_t>(model->config.intermediate), 1.0)),
      squaresOf = squares;
  for (size_t i = 0; i < squares.size(); ++i) {
    const Values& of = left.tapes.at({in.squared[i].tape, in.squared[i].projection});
    const int64_t width = std::ssize(squares[i]);
    addSquares(of.data(), i == 0 ? Values() : clipFactors(of.data(), kTokens, width), kTokens, width,
               squaresOf[i].data());
    in.squares.push_back(squares[i].data());
  }

  // Of gate and up, of fewer ranks than there are.
  const int64_t d = model->config.hidden, ff = model->config.intermediate, rank = 5;
  check::Random random(4);
  const Values u = random.floats(rank * ff), v = random.floats(rank * d);
  const WideLinear &gate = layer.projections[kGate], &up = layer.projections[kUp];
  const Curves curves(work, d,
                      {{ff, rank, u.data(), v.data(), gate.dense.values.data()},
                       {ff, rank, u.data(), v.data(), up.dense.values.data()}});
  std::vector<std::vector<double>> curve(4, std::vector<double>(static_cast<size_t>(rank + 1), 0.5));
  curves.add(left.tapes.at({BackendTape::input, kGate}).data(),
             {left.tapes.at({BackendTape::gradient, kGate}).data(),
              left.tapes.at({BackendTape::gradient, kUp}).data()},
             kTokens, {curve[0].data(), curve[1].data()});
  in.curves[2] = &curves;
  in.out[2] = {curve[2].data(), curve[3].data()};

  Values dx(x.size());
  std::array<FisherScore, kProjections> scores;
  flrc::Turns turns;
  flrc::Turns::Turn turn(turns, 0);
  through.backward(x.data(), kTokens, dy.data(), dx.data(), &scores, in, turn);
  CHECK(dx == left.dx);
  CHECK(scores[kUp].weighted == left.scores[kUp].weighted);
  CHECK(curve[2] == curve[0]);
  CHECK(curve[3] == curve[1]);
  for (size_t i = 0; i < squares.size(); ++i) {
    // Factors that clip come of norms in another order of sums.
    for (size_t k = 0; k < squares[i].size(); ++k)
      CHECK_NEAR(squares[i][k], squaresOf[i][k], 0x1p-20 * squaresOf[i][k]);
  }
  const std::vector<PackedSymmetric> sums = got.take(), of = expected.take();
  for (size_t i = 0; i < sums.size(); ++i) {
    // Norms that clip are summed in another order.
    const bool clipped = in.rows[i].tape == BackendTape::gradient || in.rows[i].tape == BackendTape::passedBack;
    const double most = *std::max_element(of[i].values.begin(), of[i].values.end());
    for (size_t j = 0; j < of[i].values.size(); ++j)
      CHECK_NEAR(sums[i].values[j], of[i].values[j], clipped ? 0x1p-18 * most : 0);
  }
}

TEST("emulated CUDA: the head's losses and gradients, tied or not, of given and of drawn labels") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  int i = 0;
  for (const std::string& name : fixture::names()) {
    const bool drawn = i % 2 > 0;
    const emulated::Pair pair =
        emulated::both(*plugin, fixture::spec(name, 1), static_cast<Dtype>(1 + i++ % 3));
    // More positions than there are at once, where that is done once; a sequence's last has no label.
    const std::vector<int32_t> ids = textOf(i == 1 ? 300 : 20);
    const Values x = activations(*pair.cpu, std::ssize(ids), 3);
    const BackendLabels labels{drawn, 5, 1000};
    HeadResult cpu = headOf(pair.cpu, x, ids, labels), cuda = headOf(pair.cuda, x, ids, labels);
    CHECK_NEAR(cuda.loss, cpu.loss, kPass * cpu.loss);
    const HeadResult other = headOf(pair.cuda, x, ids, {true, 6, 1000});
    CHECK_EQUAL(other.loss, cuda.loss);
    CHECK(other.dx != cuda.dx);
    if (drawn) leaveOthersOut(cuda.dx, cpu.dx, std::ssize(ids));
    checkNear(cuda.dx, cpu.dx, kPass);
  }
}

TEST("emulated CUDA: a logit that is not finite is told") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const Pointer model = emulated::both(*plugin, fixture::spec("qwen2", 1), Dtype::bf16).cuda;
  const std::vector<int32_t> ids = textOf(20);
  Values x = activations(*model, 20, 3);
  x[45] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS("E_NUMERIC", headOf(model, x, ids, {false, 0, 0}));
}

TEST(
    "emulated CUDA: sequences that pass a layer at once, and a session beside them, get what each gets alone") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const Pointer model = emulated::both(*plugin, fixture::spec("mistral", 1), Dtype::int8).cuda;
  const Job job;
  const DeviceWork work(*model, job);
  const WideLayer layer = widen(*model, 1, 0);
  const std::vector<int64_t> lengths = {40, 9, 23};
  const auto passed = [&](const LayerPass& through, size_t i) {
    const int64_t tokens = lengths[i];
    return pass(through, activations(*model, tokens, 10 + i), activations(*model, tokens, 20 + i), tokens);
  };
  const auto written = [&] {
    Session session(model);
    session.append(textOf(12).data(), 12, 0, Job());
    std::vector<int32_t> tokens;
    for (int i = 0; i < 8; ++i) {
      tokens.push_back(session.sample({}).token);
      session.append(&tokens.back(), 1, 0, Job());
    }
    return tokens;
  };
  std::vector<Passed> alone, together(lengths.size());
  for (size_t i = 0; i < lengths.size(); ++i) alone.push_back(passed(LayerPass(work, layer, 1, 40), i));
  const std::vector<int32_t> tokens = written();
  {
    const LayerPass through(work, layer, 1, 40);
    std::vector<std::thread> threads;
    for (size_t i = 0; i < lengths.size(); ++i)
      threads.emplace_back([&, i] { together[i] = passed(through, i); });
    const std::vector<int32_t> beside = written();
    for (std::thread& thread : threads) thread.join();
    CHECK(beside == tokens);
  }
  for (size_t i = 0; i < lengths.size(); ++i) CHECK(same(together[i], alone[i]));
}

TEST("emulated CUDA: passes end where they are cancelled, or where nobody keeps what they leave") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const Pointer model = emulated::both(*plugin, fixture::spec("qwen3", 1), Dtype::bf16).cuda;
  const Values x = activations(*model, 12, 1), dy = activations(*model, 12, 2);
  Values out(x.size());
  const std::vector<int32_t> ids = textOf(12);
  const WideLayer layer = widen(*model, 0, 0);
  {
    const DeviceWork aborted(*model, cancelled());
    const LayerPass pass(aborted, layer, 0, 12);
    CHECK_THROWS("E_ABORTED", pass.forward(x.data(), 12, out.data()));
    CHECK_THROWS("E_ABORTED", HeadGradients(aborted).of(x.data(), ids.data(), 12, {}, out.data()));
  }
  Job job;
  const DeviceWork work(*model, job);
  const LayerPass through(work, layer, 0, 12);
  const Passed expected = pass(through, x, dy, 12);
  Passed some;
  TapeKeeper keeper = keeperOf(some);
  // What the keeper throws is what its caller gets.
  keeper.put = [](BackendTape tape, int, const float*, int64_t) {
    if (tape == BackendTape::gradient) throw Error(code::io, "no place");
  };
  CHECK_THROWS("E_IO", through.backward(x.data(), 12, dy.data(), out.data(), nullptr, keeper));
  CHECK(same(pass(through, x, dy, 12), expected));
  // In the middle of it.
  int kept = 0;
  keeper.put = [&](BackendTape, int, const float*, int64_t) {
    if (++kept == 3) job.cancel();
  };
  CHECK_THROWS("E_ABORTED", through.backward(x.data(), 12, dy.data(), out.data(), nullptr, keeper));
  CHECK_AT_MOST(kept, 8);
}

TEST("emulated CUDA: a pass that does not fit the GPU's memory is refused before any of it is taken") {
  const Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const Pointer model = emulated::both(*plugin, fixture::spec("llama", 1), Dtype::bf16).cuda;
  const Job job;
  const DeviceWork work(*model, job);
  const WideLayer layer = widen(*model, 0, 0);
  BackendFailure failure{};
  DeviceLayerPass* made = nullptr;
  CHECK(plugin->createLayerPass(work.weights(), 0, 100'000'000, &layer, &made, &failure) ==
        BackendCode::outOfMemory);
  CHECK(std::string(failure.message).find("100000000 tokens") != std::string::npos);
  CHECK(std::string(failure.message).find("device cpu") != std::string::npos);
  CHECK(!made);
}
