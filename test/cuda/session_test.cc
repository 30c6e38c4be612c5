// Sessions on the CUDA plugin, whose runtime and kernels are built for the emulator (cuda/emulator): they must
// write what the CPU writes. Says nothing of a GPU.
#include "model/session.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>

#include "check.h"
#include "dropped.h"
#include "emulated.h"
#include "fixture.h"
#include "temporary.h"

using emulated::both;
using emulated::Pair;
using flrc::Dtype;
using flrc::Job;
using flrc::Model;
using flrc::NextToken;
using flrc::Sampling;
using flrc::Session;

namespace {

using Tokens = std::vector<int32_t>;
using ModelPointer = std::shared_ptr<const Model>;

// Both sum in f32, in other orders; keys and values are bf16 on the device, whose relative error of 2^-8 the
// softmax and the layers behind it pass on.
void checkLogits(const Session& cuda, const Session& cpu) {
  const std::vector<float> got = cuda.logits(), expected = cpu.logits();
  CHECK_EQUAL(got.size(), expected.size());
  float largest = 1;
  for (float logit : expected) largest = std::max(largest, std::abs(logit));
  for (size_t v = 0; v < got.size(); ++v) CHECK_NEAR(got[v], expected[v], 0x1p-6 * largest);
}

const Tokens kPrompt = {3, 14, 15, 92, 65, 35};

Tokens counting(int32_t count) {
  Tokens tokens;
  for (int32_t i = 0; i < count; ++i) tokens.push_back((7 * i + 3) % 96);
  return tokens;
}

// A dense model, but for a projection [rows, <= cols] that is one block of all its ranks: nothing but pivots.
flrc::ModelSpec ofAllRanks(const temporary::File& pivots) {
  flrc::ModelSpec spec = fixture::spec("llama3-scaled", 1);
  const int64_t ranks = flrc::projectionShape(spec.config, 0, flrc::kO).rows;
  const std::string name = flrc::projectionName(0, flrc::kO);
  const auto found = std::find_if(spec.tensors.begin(), spec.tensors.end(),
                                  [&](const auto& source) { return source.name == name + ".weight"; });
  found->name = name + ".P.0";
  flrc::TensorSource rest = *found, order = *found;
  rest.name = name + ".C.0";
  rest.shape = {ranks, 0};
  rest.byteLength = 0;
  std::vector<int32_t> places(static_cast<size_t>(ranks));
  std::iota(places.begin(), places.end(), 0);
  order.name = name + ".I.0";
  order.file = pivots.path;
  order.offset = 0;
  order.byteLength = ranks * static_cast<int64_t>(sizeof(int32_t));
  order.type = flrc::SourceType::i32;
  order.shape = {ranks};
  std::ofstream(pivots.place, std::ios::binary)
      .write(reinterpret_cast<const char*>(places.data()), order.byteLength);
  spec.tensors.insert(spec.tensors.end(), {rest, order});
  std::vector<int32_t> level(static_cast<size_t>(spec.config.layers * flrc::kProjections), -1);
  level[flrc::kO] = static_cast<int32_t>(ranks);
  spec.levels = {level};
  return spec;
}

void append(Session& session, const Tokens& tokens, int64_t level = 0) {
  session.append(tokens.data(), static_cast<int64_t>(tokens.size()), level, Job());
}

}  // namespace

TEST("emulated CUDA: every architecture, in every dtype in turn, writes the CPU's greedy tokens") {
  const flrc::Backend* plugin = emulated::plugin();
  if (!plugin) return;
  int i = 0;
  for (const std::string& name : fixture::names()) {
    const Pair pair = both(*plugin, fixture::spec(name, 1), static_cast<Dtype>(1 + i++ % 3));
    Session cpu(pair.cpu), cuda(pair.cuda);
    for (Session* session : {&cpu, &cuda}) append(*session, kPrompt);
    checkLogits(cuda, cpu);
    for (int step = 0; step < 3; ++step) {
      const int32_t token = cpu.sample({}).token;
      const flrc::Sampled sampled = cuda.sample({});
      CHECK_EQUAL(sampled.token, token);
      CHECK_NEAR(sampled.logprob, cpu.sample({}).logprob, 0x1p-5);
      CHECK_NEAR(sampled.entropy, cpu.sample({}).entropy, 0x1p-5);
      for (Session* session : {&cpu, &cuda}) append(*session, {token});
    }
    checkLogits(cuda, cpu);
  }
}

TEST("emulated CUDA: layers whose MLPs have fewer channels, in prompts and token by token") {
  const flrc::Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const Dropped of("llama3-scaled", {37, 19}, 1);
  for (Dtype dtype : {Dtype::bf16, Dtype::int8, Dtype::int4}) {
    const Pair pair = both(*plugin, of.narrow, dtype);
    Session cpu(pair.cpu), cuda(pair.cuda);
    for (const int32_t count : {20, 3, 1, 1}) {
      for (Session* session : {&cpu, &cuda}) append(*session, counting(count));
      checkLogits(cuda, cpu);
    }
  }
}

TEST("emulated CUDA: pivoted blocks, plain factors and dense projections, at each level") {
  const flrc::Backend* plugin = emulated::plugin();
  if (!plugin) return;
  for (Dtype dtype : {Dtype::bf16, Dtype::int8, Dtype::int4}) {
    const Pair pair = both(*plugin, fixture::twoLevelsSpec(1), dtype);
    Session cpu(pair.cpu), cuda(pair.cuda);
    for (Session* session : {&cpu, &cuda}) append(*session, kPrompt);
    checkLogits(cuda, cpu);
    for (int64_t level : {1, 0, 1}) {
      for (Session* session : {&cpu, &cuda}) append(*session, {40}, level);
      checkLogits(cuda, cpu);
    }
  }
}

TEST(
    "emulated CUDA: prompts through pivoted blocks and plain factors, at each level, and a block of all "
    "ranks") {
  const flrc::Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const temporary::File pivots;
  for (const flrc::ModelSpec& spec : {fixture::twoLevelsSpec(1), ofAllRanks(pivots)}) {
    const Pair pair = both(*plugin, spec, Dtype::bf16);
    for (size_t level = 0; level < spec.levels.size(); ++level) {
      Session cpu(pair.cpu), cuda(pair.cuda);
      for (Session* session : {&cpu, &cuda}) append(*session, counting(20), static_cast<int64_t>(level));
      checkLogits(cuda, cpu);
    }
  }
}

TEST("emulated CUDA: sessions that decode together get what each gets alone, bit by bit") {
  const flrc::Backend* plugin = emulated::plugin();
  if (!plugin) return;
  for (Dtype dtype : {Dtype::bf16, Dtype::int8, Dtype::int4}) {
    const ModelPointer model = both(*plugin, fixture::twoLevelsSpec(1), dtype).cuda;
    std::vector<std::unique_ptr<Session>> together, alone;
    std::vector<NextToken> next;
    for (int32_t i = 0; i < (dtype == Dtype::bf16 ? 5 : 2); ++i) {
      const int64_t level = i % 2;
      for (auto* sessions : {&together, &alone}) {
        sessions->push_back(std::make_unique<Session>(model));
        append(*sessions->back(), counting(2 + 3 * i));
      }
      append(*alone.back(), {20 + i}, level);
      next.push_back({together.back().get(), 20 + i, level});
    }
    Session::appendEach(next, Job());
    for (size_t i = 0; i < together.size(); ++i) CHECK(together[i]->logits() == alone[i]->logits());
  }
}

TEST("emulated CUDA: self-speculation keeps the tokens and logits of single steps") {
  const flrc::Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const ModelPointer model = both(*plugin, fixture::twoLevelsSpec(1), Dtype::bf16).cuda;
  Session rounds(model), steps(model);
  for (Session* session : {&rounds, &steps}) append(*session, kPrompt);
  int32_t token = rounds.sample({}).token;
  const auto round = rounds.speculate(token, {1, 3, 0, {}}, {}, Job());
  CHECK_EQUAL(round.drafted, 3);
  for (const flrc::Sampled& sampled : round.tokens) {
    append(steps, {token});
    const flrc::Sampled expected = steps.sample({});
    token = expected.token;
    CHECK_EQUAL(sampled.token, token);
    CHECK_EQUAL(sampled.logprob, expected.logprob);
    CHECK_EQUAL(sampled.entropy, expected.entropy);
  }
  CHECK(rounds.logits() == steps.logits());
}

TEST("emulated CUDA: long prompts, forks, rewinds and caches that grow") {
  const flrc::Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const Pair pair = both(*plugin, fixture::spec("mistral", 1), Dtype::bf16);
  Session cpu(pair.cpu), cuda(pair.cuda);
  const Tokens first = counting(40), more = counting(50);
  for (Session* session : {&cpu, &cuda}) append(*session, first);
  checkLogits(cuda, cpu);
  const auto fork = cuda.fork();
  CHECK(fork->logits() == cuda.logits());
  const auto got = cuda.logprobs(more.data(), 50, 0, 0, Job());
  const auto expected = cpu.logprobs(more.data(), 50, 0, 0, Job());
  // Prompts may be rounded to bf16 on the CPU wherever they are multiplied, attention included, and are not
  // here.
  for (size_t t = 0; t < expected.size(); ++t)
    CHECK_NEAR(got[t], expected[t], 0x1p-5 * std::max(1.0, std::abs(expected[t])));
  checkLogits(cuda, cpu);
  // The fork goes its own way; the session goes back to where it left, and the same way.
  append(*fork, {5});
  cuda.rewind(40);
  CHECK(cuda.logits().empty());
  append(cuda, {5});
  CHECK(fork->logits() == cuda.logits());
}

TEST("emulated CUDA: what is drawn repeats with its seed, and the likeliest of one is drawn") {
  const flrc::Backend* plugin = emulated::plugin();
  if (!plugin) return;
  Session session(both(*plugin, fixture::spec("llama", 1), Dtype::bf16).cuda);
  append(session, kPrompt);
  Sampling sampling;
  sampling.temperature = 1.5;
  Tokens drawn;
  for (sampling.draw = 0; sampling.draw < 8; ++sampling.draw) drawn.push_back(session.sample(sampling).token);
  for (sampling.draw = 0; sampling.draw < 8; ++sampling.draw) {
    CHECK_EQUAL(session.sample(sampling).token, drawn[static_cast<size_t>(sampling.draw)]);
  }
  CHECK(std::count(drawn.begin(), drawn.end(), drawn[0]) < 8);
  sampling.topK = 1;
  CHECK_EQUAL(session.sample(sampling).token, session.sample({}).token);
  // Next to nothing is as good as greedy.
  sampling.topK = 0;
  sampling.temperature = 1e-60;
  CHECK_EQUAL(session.sample(sampling).token, session.sample({}).token);
}

TEST("emulated CUDA: sessions are drawn from together as each is alone, greedy or not, bit by bit") {
  const flrc::Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const ModelPointer model = both(*plugin, fixture::spec("llama", 1), Dtype::bf16).cuda;
  std::vector<std::unique_ptr<Session>> sessions;
  std::vector<flrc::NextDraw> draws;
  for (int32_t i = 0; i < 18; ++i) {
    sessions.push_back(std::make_unique<Session>(model));
    append(*sessions.back(), {20 + i, 3});
    Sampling how;
    how.temperature = i % 3 == 0 ? 0 : 0.5 + 0.1 * i;
    how.topK = i % 2 ? 30 : 0;
    how.topP = i % 4 < 2 ? 1 : 0.8;
    how.minP = i % 5 ? 0 : 0.01;
    how.seed = 7;
    how.draw = static_cast<uint64_t>(i);
    draws.push_back({sessions.back().get(), how});
  }
  const std::vector<flrc::Sampled> together = Session::sampleEach(draws);
  for (size_t i = 0; i < draws.size(); ++i) {
    const flrc::Sampled alone = sessions[i]->sample(draws[i].sampling);
    CHECK_EQUAL(together[i].token, alone.token);
    CHECK_EQUAL(together[i].logprob, alone.logprob);
    CHECK_EQUAL(together[i].entropy, alone.entropy);
  }
}

TEST("emulated CUDA: logits that are not finite are drawn from by nobody, and the others all the same") {
  const flrc::Backend* plugin = emulated::plugin();
  if (!plugin) return;
  const ModelPointer model = both(*plugin, fixture::spec("llama", 1), Dtype::bf16).cuda;
  flrc::DeviceModel* weights = model->device.weights(*model, Job());
  flrc::SequenceHandle good(*plugin, weights), bad(*plugin, weights), worse(*plugin, weights);
  std::vector<float> logits(static_cast<size_t>(model->config.vocab));
  logits[5] = 30;
  good.setLogits(logits.data());
  logits[7] = NAN;
  bad.setLogits(logits.data());
  logits[7] = -INFINITY;
  worse.setLogits(logits.data());
  Sampling how;
  how.temperature = 1;
  const auto sampled = flrc::sampleEach(*plugin, {{bad.get(), how}, {good.get(), how}, {worse.get(), {}}});
  CHECK_EQUAL(sampled[0].token, -1);
  CHECK_EQUAL(sampled[1].token, 5);
  CHECK_EQUAL(sampled[2].token, -1);
  CHECK_THROWS("E_NUMERIC", bad.sample(how));
}

TEST("emulated CUDA: the device is described, and its reading measured") {
  const flrc::Backend* plugin = emulated::plugin();
  if (!plugin) return;
  flrc::BackendDevice device{};
  double bandwidth = 0;
  flrc::callBackend([&](flrc::BackendFailure* failure) { return plugin->describe(&device, failure); });
  flrc::callBackend([&](flrc::BackendFailure* failure) { return plugin->readBandwidth(&bandwidth, failure); });
  CHECK_EQUAL(std::string(device.name), std::string("emulator"));
  CHECK(bandwidth > 0);
}

TEST("emulated CUDA: what the kernels do not take is refused, and a cancelled call keeps the length") {
  const flrc::Backend* plugin = emulated::plugin();
  if (!plugin) return;
  CHECK_THROWS("E_DEVICE", both(*plugin, fixture::spec("llama", 1), Dtype::f32));
  Session session(both(*plugin, fixture::spec("llama", 1), Dtype::bf16).cuda);
  append(session, kPrompt);
  Job cancelled;
  cancelled.cancel();
  const Tokens more = counting(20);
  CHECK_THROWS("E_ABORTED", session.append(more.data(), 20, 0, cancelled));
  CHECK_EQUAL(session.length(), 6);
}
