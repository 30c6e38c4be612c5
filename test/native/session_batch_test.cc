// Sessions that decode side by side, forks, and the divergence of two sessions.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "fixture.h"
#include "model/sampler.h"
#include "model/session.h"

using flrc::Job;
using flrc::NextToken;
using flrc::Session;

namespace {

using Sessions = std::vector<std::unique_ptr<Session>>;

Sessions sessions(const std::shared_ptr<const flrc::Model>& model, int count) {
  Sessions all;
  for (int i = 0; i < count; ++i) all.push_back(std::make_unique<Session>(model));
  return all;
}

int32_t tokenAt(const flrc::Model& model, int64_t session, int64_t step) {
  return static_cast<int32_t>((3 * session + 5 * step + 1) % model.config.vocab);
}

double divergenceOf(const std::vector<float>& p, const std::vector<float>& q) {
  double pSum = 0, qSum = 0, kl = 0;
  for (float logit : p) pSum += std::exp(static_cast<double>(logit));
  for (float logit : q) qSum += std::exp(static_cast<double>(logit));
  for (size_t i = 0; i < p.size(); ++i) {
    const double logP = p[i] - std::log(pSum), logQ = q[i] - std::log(qSum);
    kl += std::exp(logP) * (logP - logQ);
  }
  return kl;
}

}  // namespace

TEST("sessions: 21 at two levels side by side are bitwise what each is alone") {
  const auto model = fixture::twoLevels(2);
  constexpr int kCount = 21;
  const Sessions together = sessions(model, kCount);
  const Sessions alone = sessions(model, kCount);
  const auto levelAt = [](int64_t i, int64_t step) { return (i + step) % 3 == 0 ? int64_t{1} : int64_t{0}; };
  for (int64_t i = 0; i < kCount; ++i) {
    // Positions differ within every pass.
    std::vector<int32_t> prompt;
    for (int64_t t = 0; t < 1 + i % 4; ++t) prompt.push_back(tokenAt(*model, i, 100 + t));
    for (const Sessions* all : {&together, &alone}) {
      (*all)[i]->append(prompt.data(), static_cast<int64_t>(prompt.size()), 0, Job());
    }
  }
  for (int64_t step = 0; step < 6; ++step) {
    std::vector<NextToken> next;
    for (int64_t i = 0; i < kCount; ++i) {
      if (step > i % 7) continue;  // some end early
      const NextToken one = {together[i].get(), tokenAt(*model, i, step), levelAt(i, step)};
      next.push_back(one);
      alone[i]->append(&one.token, 1, one.level, Job());
    }
    Session::appendEach(next, Job());
  }
  for (int64_t i = 0; i < kCount; ++i) {
    CHECK_EQUAL(together[i]->length(), alone[i]->length());
    CHECK(together[i]->logits() == alone[i]->logits());
    CHECK(together[i]->bytes() > 0);
  }
  const auto high = alone[0]->fork(), low = alone[0]->fork();
  Session::appendEach({{high.get(), 1, 0}, {low.get(), 1, 1}}, Job());
  CHECK(high->logits() != low->logits());
}

TEST("sessions: what cannot be decoded together is refused, and an abort leaves all as they were") {
  const auto of = fixture::load(fixture::names().front(), 2);
  const Sessions some = sessions(of.model, 3);
  Session stranger(fixture::load(fixture::names().back(), 1).model);
  for (const auto& session : some) session->append(of.tokens.data(), 4, 0, Job());
  const auto refused = [&](const char* code, const std::vector<NextToken>& next, const Job& job) {
    CHECK_THROWS(code, Session::appendEach(next, job));
    for (const auto& session : some) CHECK_EQUAL(session->length(), 4);
  };
  refused("E_INTERNAL", {{some[0].get(), 1, 0}, {some[1].get(), 1, 0}, {some[0].get(), 2, 0}}, Job());
  refused("E_INTERNAL", {{some[0].get(), 1, 0}, {&stranger, 1, 0}}, Job());
  refused("E_INTERNAL", {{some[0].get(), 1, 0}, {some[1].get(), 1, 1}}, Job());
  refused("E_INTERNAL", {{some[0].get(), 1, 0}, {some[1].get(), -1, 0}}, Job());
  CHECK(!some[1]->logits().empty());
  Job cancelled;
  cancelled.cancel();
  refused("E_ABORTED", {{some[0].get(), 1, 0}, {some[1].get(), 1, 0}}, cancelled);
  CHECK(!some[0]->logits().empty() && !some[1]->logits().empty());
  Session::appendEach({}, Job());
  const std::vector<int32_t> filling(static_cast<size_t>(of.model->config.context) - 4, 1);
  some[2]->append(filling.data(), static_cast<int64_t>(filling.size()), 0, Job());
  CHECK_THROWS("E_CONTEXT", Session::appendEach({{some[0].get(), 1, 0}, {some[2].get(), 1, 0}}, Job()));
  CHECK_EQUAL(some[0]->length(), 4);
}

TEST("sessions: 18 are drawn from together as each is alone") {
  const auto of = fixture::load(fixture::names().front(), 2);
  const Sessions some = sessions(of.model, 18);
  std::vector<flrc::NextDraw> draws;
  for (size_t i = 0; i < some.size(); ++i) {
    some[i]->append(of.tokens.data() + i % 3, 4, 0, Job());
    flrc::Sampling how;
    // Every third one greedy.
    how.temperature = i % 3 == 0 ? 0 : 1.5;
    how.topK = i % 2 ? 20 : 0;
    how.topP = i % 5 ? 1 : 0.8;
    how.seed = 4;
    how.draw = i;
    // Every fourth one without what it likes best.
    std::vector<flrc::Penalty> penalties;
    if (i % 4 == 0) penalties.push_back({some[i]->sample({}).token, 1, 1000});
    draws.push_back({some[i].get(), how, penalties});
  }
  const std::vector<flrc::Sampled> together = Session::sampleEach(draws);
  CHECK_EQUAL(together.size(), some.size());
  for (size_t i = 0; i < some.size(); ++i) {
    const flrc::Sampled alone = some[i]->sample(draws[i].sampling, draws[i].penalties);
    if (i % 4 == 0) CHECK(together[i].token != draws[i].penalties[0].token);
    CHECK_EQUAL(together[i].token, alone.token);
    CHECK_EQUAL(together[i].logprob, alone.logprob);
    CHECK_EQUAL(together[i].entropy, alone.entropy);
  }
  CHECK(Session::sampleEach({}).empty());
  CHECK_THROWS("E_INTERNAL", Session::sampleEach({draws[0], draws[1], draws[0]}));
  Session stranger(fixture::load(fixture::names().back(), 1).model), empty(of.model);
  stranger.append(of.tokens.data(), 4, 0, Job());
  CHECK_THROWS("E_INTERNAL", Session::sampleEach({draws[0], {&stranger, {}, {}}}));
  CHECK_THROWS("E_INTERNAL", Session::sampleEach({draws[0], {&empty, {}, {}}}));
  const auto beyond = static_cast<int32_t>(of.model->config.vocab);
  CHECK_THROWS("E_INTERNAL", some[0]->sample({}, {{beyond, 2, 0}}));
}

TEST("sessions: logits that are not finite are drawn from by nobody, and the others all the same") {
  const auto of = fixture::load(fixture::names().front(), 2);
  const flrc::Backend& backend = of.model->device.backend();
  flrc::DeviceModel* weights = of.model->device.weights(*of.model, Job());
  flrc::SequenceHandle good(backend, weights), bad(backend, weights), worse(backend, weights);
  std::vector<float> logits(static_cast<size_t>(of.model->config.vocab));
  logits[5] = 30;
  good.setLogits(logits.data());
  logits[7] = NAN;
  bad.setLogits(logits.data());
  logits[7] = -INFINITY;
  worse.setLogits(logits.data());
  flrc::Sampling how;
  how.temperature = 1;
  const auto sampled = flrc::sampleEach(backend, {{bad.get(), how}, {good.get(), how}, {worse.get(), {}}});
  CHECK_EQUAL(sampled[0].token, -1);
  CHECK_EQUAL(sampled[1].token, 5);
  CHECK_EQUAL(sampled[2].token, -1);
  CHECK_THROWS("E_NUMERIC", bad.sample(how));
}

TEST("sessions: a fork goes its own way from the same place") {
  const auto of = fixture::load(fixture::names().front(), 2);
  Session session(of.model);
  session.append(of.tokens.data(), 5, 0, Job());
  const auto fork = session.fork();
  CHECK_EQUAL(fork->length(), 5);
  CHECK(fork->logits() == session.logits());
  CHECK(fork->bytes() > 0);
  const int32_t token = 3;
  fork->append(&token, 1, 0, Job());
  CHECK_EQUAL(session.length(), 5);
  CHECK(fork->logits() != session.logits());
  session.append(&token, 1, 0, Job());
  CHECK(fork->logits() == session.logits());
}

TEST("sessions: one that has rested goes on as if it had not") {
  for (const auto& name : fixture::names()) {
    const auto of = fixture::load(name, 2);
    Session session(of.model), rested(of.model);
    for (Session* each : {&session, &rested}) each->append(of.tokens.data(), 5, 0, Job());
    const size_t before = rested.bytes();
    rested.rest();
    CHECK(rested.bytes() < before);
    CHECK(rested.logits() == session.logits());
    const auto fork = rested.fork();
    const flrc::DraftOptions drafts = {0, 2, 0, {}};
    for (Session* each : {&session, &rested, fork.get()}) {
      each->speculate(3, drafts, {}, Job());
      each->rest();
      each->append(of.tokens.data(), 1, 0, Job());
    }
    CHECK(rested.logits() == session.logits());
    CHECK(fork->logits() == session.logits());
  }
}

TEST("sessions: a fork of the first positions is as if no others had been there") {
  for (const flrc::Dtype dtype : {flrc::Dtype::f32, flrc::Dtype::bf16}) {
    flrc::ModelSpec spec = fixture::spec(fixture::names().front(), 2);
    spec.dtype = dtype;
    const auto model = flrc::loadModel(spec, Job());
    std::vector<int32_t> tokens;
    for (int64_t step = 0; step < 40; ++step) tokens.push_back(tokenAt(*model, 1, step));
    for (const int64_t length : {0, 1, 15, 16, 17, 30}) {
      Session session(model);
      session.append(tokens.data(), 40, 0, Job());
      const auto fork = session.fork(length);
      CHECK_EQUAL(fork->length(), length);
      CHECK(fork->logits().empty());
      CHECK(fork->bytes() < session.bytes());
      session.rewind(length);
      for (Session* one : {fork.get(), &session}) one->append(tokens.data(), 3, 0, Job());
      CHECK(fork->logits() == session.logits());
    }
    Session session(model);
    session.append(tokens.data(), 5, 0, Job());
    CHECK(session.fork(5)->logits() == session.logits());
    CHECK_THROWS("E_INTERNAL", session.fork(6));
    CHECK_THROWS("E_INTERNAL", session.fork(-1));
  }
}

TEST("sessions: divergence is the KL of the two distributions") {
  const auto of = fixture::load(fixture::names().front(), 2);
  Session a(of.model), b(of.model), empty(of.model);
  a.append(of.tokens.data(), 5, 0, Job());
  b.append(of.tokens.data() + 5, 5, 0, Job());
  const double forward = Session::divergence(a, b), backward = Session::divergence(b, a);
  CHECK_NEAR(forward, divergenceOf(a.logits(), b.logits()), 1e-9);
  CHECK_NEAR(backward, divergenceOf(b.logits(), a.logits()), 1e-9);
  CHECK(forward > 0 && backward > 0 && forward != backward);
  CHECK_EQUAL(Session::divergence(a, *a.fork()), 0.0);
  CHECK_EQUAL(Session::divergence(a, a), 0.0);
  CHECK_THROWS("E_INTERNAL", Session::divergence(a, empty));
  CHECK_THROWS("E_INTERNAL", Session::divergence(empty, a));
}

TEST("sessions: a divergence of logits that are not finite is an error") {
  const float fine[] = {0.0f, 2.0f, 1.0f}, wrong[] = {0.0f, NAN, 1.0f}, large[] = {1e30f, 0.0f, 0.0f};
  CHECK_THROWS("E_NUMERIC", flrc::klDivergence(fine, wrong, 3));
  CHECK_THROWS("E_NUMERIC", flrc::klDivergence(wrong, fine, 3));
  CHECK(std::isfinite(flrc::klDivergence(fine, large, 3)));
}

TEST("sessions: one that moves to an equal model goes on bit by bit, one to another shape stays") {
  const auto model = fixture::twoLevels(1), copy = fixture::twoLevels(1);
  Session moves(model), stays(model);
  const std::vector<int32_t> prompt = {1, 5, 2, 7};
  for (Session* session : {&moves, &stays}) {
    session->append(prompt.data(), static_cast<int64_t>(prompt.size()), 0, Job());
  }
  for (int64_t step = 0; step < 4; ++step) {
    moves.moveTo(step % 2 == 0 ? copy : model);
    const int32_t token = tokenAt(*model, 0, step);
    for (Session* session : {&moves, &stays}) session->append(&token, 1, step % 2, Job());
    CHECK(moves.logits() == stays.logits());
  }
  for (const std::string& name : fixture::names()) {
    const auto other = fixture::load(name, 1).model;
    if (other->config.layers == model->config.layers && other->config.vocab == model->config.vocab &&
        other->config.kvWidth() == model->config.kvWidth() && other->config.headDim == model->config.headDim) {
      continue;
    }
    CHECK_THROWS("E_INTERNAL", moves.moveTo(other));
    CHECK(&moves.model() == model.get());
    return;
  }
  CHECK(false);  // all fixtures have one shape
}
