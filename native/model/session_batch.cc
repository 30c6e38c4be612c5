// What several sessions do together.

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>

#include "core/error.h"
#include "model/session.h"

namespace flrc {

Session::Locks Session::lockEach(std::vector<Session*> sessions) {
  // Calls that share sessions take the locks in one order, so that none waits for the other's.
  std::sort(sessions.begin(), sessions.end(), std::less<Session*>());
  if (std::adjacent_find(sessions.begin(), sessions.end()) != sessions.end()) {
    throw Error(code::internal, "a session is to take two tokens at once");
  }
  Locks locks;
  for (Session* session : sessions) {
    locks.emplace_back(session->mutex_);
    if (session->model_ != sessions.front()->model_) {
      throw Error(code::internal, "sessions of different models decode together");
    }
  }
  return locks;
}

void Session::appendEach(const std::vector<NextToken>& next, const Job& job) {
  if (next.empty()) return;
  std::vector<Session*> sessions;
  for (const NextToken& one : next) sessions.push_back(one.session);
  const Locks locks = lockEach(sessions);
  job.check();
  for (const NextToken& one : next) {
    one.session->checkAppend(&one.token, 1, one.level);
    one.session->open(job);
  }

  std::vector<NextToken> rows = next;
  std::stable_sort(rows.begin(), rows.end(),
                   [](const NextToken& a, const NextToken& b) { return a.level < b.level; });
  size_t done = 0;
  try {
    while (done < rows.size()) {
      size_t end = done + 1;
      while (end < rows.size() && end - done < static_cast<size_t>(kBackendRows) &&
             rows[end].level == rows[done].level) {
        ++end;
      }
      appendRows(rows.data() + done, static_cast<int64_t>(end - done), *next.front().session->pass_, job);
      done = end;
    }
  } catch (...) {
    for (size_t i = 0; i < rows.size(); ++i) {
      if (i < done) --rows[i].session->length_;
      rows[i].session->hasLogits_ = false;
    }
    throw;
  }
  for (Session* session : sessions) session->countBytes();
}

void Session::appendRows(const NextToken* next, int64_t count, PassHandle& pass, const Job& job) {
  job.check();
  std::array<BackendRow, kBackendRows> rows{};
  std::array<int32_t, kBackendRows> tokens{};
  std::array<int64_t, kBackendRows> all{};
  std::iota(all.begin(), all.end(), 0);
  for (int64_t i = 0; i < count; ++i) {
    const Session& session = *next[i].session;
    rows[i] = {session.sequence_->get(), session.length_};
    tokens[i] = next[i].token;
  }
  pass.run(tokens.data(), rows.data(), count, next->level, job);
  pass.keepLogits(all.data(), count);
  for (int64_t i = 0; i < count; ++i) {
    ++next[i].session->length_;
    next[i].session->hasLogits_ = true;
  }
}

std::vector<Sampled> Session::sampleEach(const std::vector<NextDraw>& draws) {
  if (draws.empty()) return {};
  std::vector<Session*> sessions;
  for (const NextDraw& one : draws) sessions.push_back(one.session);
  const Locks locks = lockEach(sessions);
  std::vector<Sampled> sampled(draws.size());
  std::vector<BackendDraw> rows;
  std::vector<size_t> places;
  for (size_t i = 0; i < draws.size(); ++i) {
    const NextDraw& one = draws[i];
    one.session->checkLogits();
    if (!one.penalties.empty()) {
      sampled[i] = one.session->samplePenalised(one.sampling, one.penalties);
      continue;
    }
    rows.push_back({one.session->sequence_->get(), one.sampling});
    places.push_back(i);
  }
  const std::vector<Sampled> together = flrc::sampleEach(sessions.front()->model_->device.backend(), rows);
  for (size_t i = 0; i < places.size(); ++i) sampled[places[i]] = together[i];
  return sampled;
}

double Session::divergence(Session& reference, Session& of) {
  if (&reference == &of) return 0;
  std::scoped_lock lock(reference.mutex_, of.mutex_);
  if (!reference.hasLogits_ || !of.hasLogits_) {
    throw Error(code::internal, "nothing to compare: append tokens first");
  }
  if (reference.model_->config.vocab != of.model_->config.vocab) {
    throw Error(code::internal, "distributions over different vocabularies are to be compared");
  }
  return klDivergence(reference.logits().data(), of.logits().data(), reference.model_->config.vocab);
}

}  // namespace flrc
