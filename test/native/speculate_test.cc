// Self-speculation: rounds against single steps, bit by bit, and against the exact distribution they must keep.
#include "model/speculate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <thread>

#include "check.h"
#include "fixture.h"
#include "model/session.h"

using flrc::Choices;
using flrc::DraftOptions;
using flrc::Job;
using flrc::Sampled;
using flrc::Sampling;
using flrc::Session;
using flrc::SpeculationRound;

namespace {

using Tokens = std::vector<int32_t>;

const Tokens kPrompt = {3, 14, 15, 92, 65, 35};

// Two levels that differ in one projection only, so that drafts are often but not always accepted.
std::shared_ptr<const flrc::Model> model(int threads) {
  auto near = std::make_shared<flrc::Model>(*fixture::twoLevels(threads));
  const std::vector<int32_t> low = near->levels[1];
  near->levels[1] = near->levels[0];
  near->levels[1].back() = low.back();
  return near;
}

// A session that holds all but the last token of the prompt, which is the one to go on from.
std::unique_ptr<Session> started(const std::shared_ptr<const flrc::Model>& model, const Tokens& prompt) {
  auto session = std::make_unique<Session>(model);
  session->append(prompt.data(), static_cast<int64_t>(prompt.size()) - 1, 0, Job());
  return session;
}

DraftOptions drafts(int64_t tokens, double least = 0, Tokens ends = {}) {
  return {1, tokens, least, std::move(ends)};
}

std::vector<Sampled> singleSteps(Session& session, int32_t token, size_t count, Sampling sampling) {
  std::vector<Sampled> all;
  while (all.size() < count) {
    session.append(&token, 1, 0, Job());
    all.push_back(session.sample(sampling));
    ++sampling.draw;
    token = all.back().token;
  }
  return all;
}

struct Written {
  std::vector<Sampled> tokens;
  int64_t drafted = 0, accepted = 0;
};

// Rounds until there are at least `count` tokens.
Written rounds(Session& session, int32_t token, size_t count, Sampling sampling, const DraftOptions& options) {
  Written all;
  while (all.tokens.size() < count) {
    const int64_t before = session.length();
    const SpeculationRound round = session.speculate(token, options, sampling, Job());
    CHECK_EQUAL(session.length(), before + static_cast<int64_t>(round.tokens.size()));
    all.tokens.insert(all.tokens.end(), round.tokens.begin(), round.tokens.end());
    sampling.draw += round.tokens.size();
    all.drafted += round.drafted;
    all.accepted += static_cast<int64_t>(round.tokens.size()) - 1;
    token = all.tokens.back().token;
  }
  return all;
}

Choices choices(const std::vector<double>& probabilities) {
  Choices of;
  for (size_t i = 0; i < probabilities.size(); ++i) {
    if (probabilities[i] == 0) continue;
    of.tokens.push_back(static_cast<int32_t>(i));
    of.weights.push_back(probabilities[i]);
    of.total += probabilities[i];
  }
  return of;
}

// The value that a chi-square of so many degrees of freedom passes once in a million (Wilson and Hilferty
// 1931).
double chiSquareLimit(double freedom) {
  const double spread = 2 / (9 * freedom);
  return freedom * std::pow(1 - spread + 4.7534 * std::sqrt(spread), 3);
}

// Of counts against probabilities that sum to 1; what is expected fewer than 5 times counts as one.
void checkDistribution(const std::map<Tokens, int>& seen, const std::map<Tokens, double>& probability,
                       int draws) {
  double chiSquare = 0, rareExpected = 0, cells = 0;
  int rareSeen = 0, known = 0;
  const auto add = [&](int count, double expected) {
    chiSquare += (count - expected) * (count - expected) / expected;
    ++cells;
  };
  for (const auto& [tokens, p] : probability) {
    const auto at = seen.find(tokens);
    const int count = at == seen.end() ? 0 : at->second;
    known += count;
    if (p * draws >= 5) {
      add(count, p * draws);
    } else {
      rareSeen += count;
      rareExpected += p * draws;
    }
  }
  if (rareExpected > 0) add(rareSeen, std::max(rareExpected, 1.0));
  CHECK_EQUAL(known, draws);  // nothing that cannot be drawn
  CHECK(cells >= 8);
  CHECK_AT_MOST(chiSquare, chiSquareLimit(cells - 1));
}

// The probability of every continuation of `length` tokens at level 0.
void enumerate(Session& session, int32_t token, size_t length, const Sampling& sampling, const Tokens& before,
               double probability, std::map<Tokens, double>& to) {
  if (before.size() == length) {
    to[before] = probability;
    return;
  }
  const int64_t at = session.length();
  session.append(&token, 1, 0, Job());
  const Choices next = flrc::choicesOf(session.logits().data(), session.model().config.vocab, sampling);
  for (size_t i = 0; i < next.tokens.size(); ++i) {
    Tokens tokens = before;
    tokens.push_back(next.tokens[i]);
    enumerate(session, next.tokens[i], length, sampling, tokens, probability * next.probability(i), to);
    session.rewind(at + 1);
  }
  session.rewind(at);
}

}  // namespace

TEST("speculate: greedy rounds are single steps of level 0, bit by bit, whatever is drafted") {
  const auto model = ::model(2);
  int64_t drafted = 0, accepted = 0;
  for (int32_t p = 0; p < 12; ++p) {
    const Tokens prompt = {p, (7 * p + 5) % 96, (31 * p + 2) % 96};
    for (int64_t k : {1, 2, 3, 5, 8, 15}) {
      auto session = started(model, prompt), plain = started(model, prompt);
      const Written written = rounds(*session, prompt.back(), 32, {}, drafts(k, k == 5 ? 0.02 : 0));
      const auto expected = singleSteps(*plain, prompt.back(), written.tokens.size(), {});
      for (size_t i = 0; i < expected.size(); ++i) {
        CHECK_EQUAL(written.tokens[i].token, expected[i].token);
        CHECK_EQUAL(written.tokens[i].logprob, expected[i].logprob);
        CHECK_EQUAL(written.tokens[i].entropy, expected[i].entropy);
      }
      // The logits that are kept are level 0's, and so is the cache, which the next ones come from.
      CHECK(plain->logits() == session->logits());
      const int32_t next = expected.back().token;
      plain->append(&next, 1, 0, Job());
      session->append(&next, 1, 0, Job());
      CHECK(plain->logits() == session->logits());
      drafted += written.drafted;
      accepted += written.accepted;
    }
  }
  CHECK(accepted > drafted / 20);
  CHECK(accepted < drafted);
}

// That the test notices a broken rule was seen by breaking it: accepting every draft, accepting where p / 2 > q
// u, redrawing from p instead of max(0, p - q), drawing the token after the drafts from the draft's choices,
// and using one number both to accept and to draft each made it fail, with a chi-square of at least four times
// the limit.
TEST("speculate: drawn tokens have level 0's distribution (chi-square)") {
  const auto model = ::model(1);
  struct Case {
    Sampling sampling;
    int64_t tokens;
    size_t length;
  };
  const Case cases[] = {
      {{1, 3, 1, 0, 0, 0}, 2, 3},       {{2, 5, 1, 0, 0, 0}, 1, 2},     {{1.5, 0, 0.97, 0, 0, 0}, 3, 3},
      {{1.2, 12, 1, 0.01, 0, 0}, 4, 3}, {{1.5, 0, 1, 0.2, 0, 0}, 2, 3},
  };
  constexpr int kDraws = 4000;
  for (const Case& of : cases) {
    auto session = started(model, kPrompt);
    const int64_t begin = session->length();
    std::map<Tokens, double> probability;
    enumerate(*session, kPrompt.back(), of.length, of.sampling, {}, 1, probability);
    std::map<Tokens, int> seen;
    int64_t drafted = 0, accepted = 0;
    for (int draw = 0; draw < kDraws; ++draw) {
      Sampling sampling = of.sampling;
      sampling.seed = static_cast<uint64_t>(draw);
      const Written written = rounds(*session, kPrompt.back(), of.length, sampling, drafts(of.tokens));
      Tokens tokens;
      for (size_t i = 0; i < of.length; ++i) tokens.push_back(written.tokens[i].token);
      ++seen[tokens];
      drafted += written.drafted;
      accepted += written.accepted;
      session->rewind(begin);
    }
    CHECK(accepted > drafted / 10);
    CHECK(accepted < drafted * 9 / 10);
    checkDistribution(seen, probability, kDraws);
  }
}

TEST("speculate: the rejection rule keeps equal drafts, refuses impossible ones and takes the rest from p") {
  std::vector<double> scratch(4);
  const Choices p = choices({0.5, 0.3, 0.2, 0}), q = choices({0.25, 0, 0.25, 0.5});
  for (double u : {0.0, 0.5, 0.999999}) {
    CHECK(flrc::verify(p, p, 1, u, 0.5, scratch).accepted);
    CHECK(flrc::verify(p, q, 0, u, 0.5, scratch).accepted);  // p is above q
    const auto refused = flrc::verify(p, q, 3, u, 0.5, scratch);
    CHECK(!refused.accepted);
  }
  // Of token 2, p / q = .8; the rest is .25 of token 0 and .3 of token 1.
  CHECK(flrc::verify(p, q, 2, 0.79, 0, scratch).accepted);
  CHECK(!flrc::verify(p, q, 2, 0.81, 0, scratch).accepted);
  CHECK_EQUAL(flrc::verify(p, q, 2, 0.81, 0.25 / 0.55 - 1e-9, scratch).token, 0);
  CHECK_EQUAL(flrc::verify(p, q, 2, 0.81, 0.25 / 0.55 + 1e-9, scratch).token, 1);
  CHECK(scratch == std::vector<double>(4));
}

TEST("speculate: drafting ends where it is told to, and after an end token") {
  const auto model = ::model(2);
  auto session = started(model, kPrompt);
  const int64_t begin = session->length();
  CHECK_EQUAL(session->speculate(kPrompt.back(), drafts(6), {}, Job()).drafted, 6);
  session->rewind(begin);
  CHECK_EQUAL(session->speculate(kPrompt.back(), drafts(6, 1), {}, Job()).drafted, 1);
  // What level 1 writes by itself.
  session->rewind(begin);
  Tokens own;
  int32_t token = kPrompt.back();
  for (int i = 0; i < 6; ++i) {
    session->append(&token, 1, 1, Job());
    own.push_back(token = session->sample({}).token);
  }
  const auto end = std::find(own.begin(), own.end(), own[2]);
  session->rewind(begin);
  CHECK_EQUAL(session->speculate(kPrompt.back(), drafts(6, 0, {own[2]}), {}, Job()).drafted,
              end - own.begin() + 1);
}

TEST("speculate: what is aborted or refused leaves the session where it was") {
  const auto model = ::model(2);
  auto session = started(model, kPrompt);
  const int64_t begin = session->length();
  auto plain = started(model, kPrompt);
  const auto expected = singleSteps(*plain, kPrompt.back(), 4, {});
  const auto check = [&] {
    CHECK_EQUAL(session->length(), begin);
    const Written written = rounds(*session, kPrompt.back(), 4, {}, drafts(3));
    for (size_t i = 0; i < 4; ++i) CHECK_EQUAL(written.tokens[i].token, expected[i].token);
    session->rewind(begin);
  };
  int aborted = 0;
  for (int delay = 0; delay < 40; ++delay) {
    Job job;
    std::thread other([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(25 * delay));
      job.cancel();
    });
    try {
      for (;;) {
        session->speculate(kPrompt.back(), drafts(15), {}, job);
        session->rewind(begin);
      }
    } catch (const flrc::Error& error) {
      CHECK_EQUAL(std::string(error.code), std::string("E_ABORTED"));
      ++aborted;
    }
    other.join();
    check();
  }
  CHECK_EQUAL(aborted, 40);
  const auto vocab = static_cast<int32_t>(model->config.vocab);
  CHECK_THROWS("E_INTERNAL", session->speculate(kPrompt.back(), drafts(0), {}, Job()));
  CHECK_THROWS("E_INTERNAL", session->speculate(kPrompt.back(), drafts(16), {}, Job()));
  CHECK_THROWS("E_INTERNAL", session->speculate(vocab, drafts(2), {}, Job()));
  CHECK_THROWS("E_INTERNAL", session->speculate(1, drafts(2, 0, {vocab}), {}, Job()));
  CHECK_THROWS("E_INTERNAL", session->speculate(1, {2, 2, 0, {}}, {}, Job()));
  check();
  session->append(kPrompt.data(), 1, 0, Job());
  Job cancelled;
  cancelled.cancel();
  CHECK_THROWS("E_ABORTED", session->speculate(kPrompt.back(), drafts(3), {}, cancelled));
  CHECK(!session->logits().empty());
  session->rewind(begin);
  const Tokens filler(static_cast<size_t>(model->config.context - 3 - begin), 5);
  session->append(filler.data(), static_cast<int64_t>(filler.size()), 0, Job());
  CHECK_THROWS("E_CONTEXT", session->speculate(1, drafts(3), {}, Job()));
  CHECK_EQUAL(session->length(), model->config.context - 3);
  CHECK_EQUAL(session->speculate(1, drafts(2), {}, Job()).drafted, 2);
}
