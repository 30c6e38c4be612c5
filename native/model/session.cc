#include "model/session.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <numeric>
#include <string>

#include "core/error.h"
#include "core/random.h"
#include "core/thread_pool.h"
#include "model/cpu_backend.h"

namespace flrc {
namespace {

// Prefill goes in chunks so that activations stay small and an abort is noticed soon.
constexpr int64_t kChunk = 512;

void checkSameCache(const Model& from, const Model& to) {
  const ModelConfig &a = from.config, &b = to.config;
  const bool same = a.layers == b.layers && a.kvHeads == b.kvHeads && a.headDim == b.headDim &&
                    a.vocab == b.vocab && (from.dtype == Dtype::f32) == (to.dtype == Dtype::f32);
  const bool onCpu = &from.device.backend() == &cpuBackend() && &to.device.backend() == &cpuBackend();
  if (!same || !onCpu) throw Error(code::internal, "this model cannot go on with that cache");
}

}  // namespace

Session::Session(std::shared_ptr<const Model> model) : model_(std::move(model)) {}

void Session::open(const Job& job) {
  const Backend& backend = model_->device.backend();
  DeviceModel* weights = model_->device.weights(*model_, job);
  if (!sequence_) sequence_.emplace(backend, weights);
  if (!pass_) pass_.emplace(backend, weights);
}

std::vector<float> Session::logits() const {
  std::vector<float> logits(hasLogits_ ? static_cast<size_t>(model_->config.vocab) : 0);
  if (hasLogits_) sequence_->getLogits(logits.data());
  return logits;
}

int64_t Session::append(const int32_t* tokens, int64_t count, int64_t level, const Job& job) {
  std::lock_guard<std::mutex> lock(mutex_);
  job.check();
  checkAppend(tokens, count, level);
  open(job);
  return appendChunks(tokens, count, level, job, nullptr);
}

std::vector<double> Session::logprobs(const int32_t* tokens, int64_t count, int64_t from, int64_t level,
                                      const Job& job) {
  std::lock_guard<std::mutex> lock(mutex_);
  job.check();
  const int64_t vocab = model_->config.vocab;
  if (from < 0 || from > count) throw Error(code::internal, "log probabilities from a token that is not there");
  // Tokens and level must be known to be sound before the first of them is looked up.
  checkAppend(tokens, count, level);
  open(job);
  std::vector<double> result(static_cast<size_t>(count - from));
  if (from == 0 && count > 0) {
    if (!hasLogits_) throw Error(code::internal, "nothing comes before the first token: append one first");
    result[0] = tokenLogprob(this->logits().data(), vocab, tokens[0]);
  }
  std::vector<float> logits(static_cast<size_t>(kBackendRows * vocab));
  std::array<int64_t, kBackendRows> rows{};
  appendChunks(tokens, count, level, job, [&](int64_t first, int64_t chunk) {
    // The hidden state at position t gives the logits of token t + 1.
    const int64_t begin = std::max(first, from - 1), end = std::min(first + chunk, count - 1);
    for (int64_t t = begin; t < end; t += kBackendRows) {
      job.check();
      const int64_t columns = std::min<int64_t>(kBackendRows, end - t);
      std::iota(rows.begin(), rows.end(), t - first);
      pass_->logits(rows.data(), columns, logits.data());
      ThreadPool::shared().parallelFor(columns, model_->threads, [&](int64_t c) {
        result[static_cast<size_t>(t + c + 1 - from)] =
            tokenLogprob(logits.data() + c * vocab, vocab, tokens[t + c + 1]);
      });
    }
  });
  return result;
}

void Session::checkAppend(const int32_t* tokens, int64_t count, int64_t level) const {
  const ModelConfig& config = model_->config;
  model_->checkLevel(level);
  if (length_ + count > config.context) {
    throw Error(code::context, std::to_string(length_ + count) + " tokens do not fit the context of " +
                                   std::to_string(config.context));
  }
  model_->checkTokens(tokens, count);
}

int64_t Session::appendChunks(const int32_t* tokens, int64_t count, int64_t level, const Job& job,
                              const OnChunk& onChunk) {
  const int64_t before = length_;
  try {
    for (int64_t done = 0; done < count; done += kChunk) {
      job.check();
      const int64_t chunk = std::min(kChunk, count - done);
      forward(tokens + done, chunk, level, done + chunk == count, job);
      if (onChunk) onChunk(done, chunk);
      length_ += chunk;
    }
  } catch (...) {
    length_ = before;
    hasLogits_ = false;
    throw;
  }
  countBytes();
  return length_;
}

void Session::countBytes() {
  const size_t device = (sequence_ ? sequence_->bytes() : 0) + (pass_ ? pass_->bytes() : 0);
  size_t floats = verifiedLogits_.capacity();
  size_t doubles = scratch_.capacity();
  for (const Choices& choices : draftChoices_) {
    floats += choices.tokens.capacity();
    doubles += choices.weights.capacity();
  }
  bytes_.store(device + floats * sizeof(float) + doubles * sizeof(double), std::memory_order_relaxed);
}

std::shared_ptr<Session> Session::fork(std::optional<int64_t> length) {
  std::lock_guard<std::mutex> lock(mutex_);
  const int64_t kept = length.value_or(length_);
  if (kept < 0 || kept > length_) throw Error(code::internal, "fork beyond the session's length");
  auto other = std::make_shared<Session>(model_);
  if (sequence_) other->sequence_ = sequence_->copy(kept);
  other->length_ = kept;
  other->hasLogits_ = hasLogits_ && kept == length_;
  other->countBytes();
  return other;
}

void Session::rest() {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (!lock) return;
  pass_.reset();
  draftChoices_ = std::vector<Choices>();
  verifiedLogits_ = std::vector<float>();
  scratch_ = std::vector<double>();
  countBytes();
}

void Session::moveTo(std::shared_ptr<const Model> model) {
  std::lock_guard<std::mutex> lock(mutex_);
  checkSameCache(*model_, *model);
  model_ = std::move(model);
  pass_.reset();
  countBytes();
}

Sampled Session::sample(const Sampling& sampling, const std::vector<Penalty>& penalties) {
  std::lock_guard<std::mutex> lock(mutex_);
  checkLogits();
  if (penalties.empty()) return sequence_->sample(sampling);
  const Sampled sampled = samplePenalised(sampling, penalties);
  if (sampled.token < 0) throw notFinite();
  return sampled;
}

std::vector<TokenLogprob> Session::likeliest(int64_t count) {
  if (count <= 0) return {};
  std::lock_guard<std::mutex> lock(mutex_);
  checkLogits();
  return likeliestTokens(logits().data(), model_->config.vocab, count);
}

Sampled Session::samplePenalised(const Sampling& sampling, const std::vector<Penalty>& penalties) const {
  const int64_t vocab = model_->config.vocab;
  for (const Penalty& penalty : penalties) {
    if (penalty.token < 0 || penalty.token >= vocab) {
      throw Error(code::internal, "a penalty is of a token outside the vocabulary");
    }
  }
  return sampleFinite(logits().data(), vocab, sampling, penalties);
}

void Session::checkLogits() const {
  if (!hasLogits_) throw Error(code::internal, "nothing to sample from: append tokens first");
}

SpeculationRound Session::speculate(int32_t token, const DraftOptions& options, const Sampling& sampling,
                                    const Job& job) {
  std::lock_guard<std::mutex> lock(mutex_);
  job.check();
  const int64_t before = length_;
  if (options.tokens < 1 || options.tokens >= kBackendRows) {
    throw Error(code::internal, "a round drafts 1 to " + std::to_string(kBackendRows - 1) + " tokens");
  }
  model_->checkTokens(options.ends.data(), static_cast<int64_t>(options.ends.size()));
  checkAppend(&token, 1, options.level);
  if (before + 1 + options.tokens > model_->config.context) {
    throw Error(code::context,
                "the drafts do not fit the context of " + std::to_string(model_->config.context));
  }
  open(job);
  SpeculationRound round;
  try {
    const auto begin = std::chrono::steady_clock::now();
    draft(token, options, sampling, job);
    round.draftSeconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    length_ = before;
    verifyDrafts(token, sampling, job, round);
  } catch (...) {
    length_ = before;
    hasLogits_ = false;
    throw;
  }
  countBytes();
  return round;
}

void Session::draft(int32_t token, const DraftOptions& options, Sampling sampling, const Job& job) {
  drafts_.clear();
  draftChoices_.clear();
  double likelihood = 1;
  for (int64_t i = 0; i < options.tokens; ++i, ++sampling.draw) {
    forward(i == 0 ? &token : &drafts_.back(), 1, options.level, true, job);
    ++length_;
    const int32_t drafted = draftToken(sampling, likelihood);
    const bool ended = std::find(options.ends.begin(), options.ends.end(), drafted) != options.ends.end();
    if (ended || likelihood < options.least) return;
  }
}

int32_t Session::draftToken(const Sampling& sampling, double& likelihood) {
  if (sampling.temperature > 0) {
    const std::vector<float> logits = this->logits();
    draftChoices_.push_back(choicesOf(logits.data(), model_->config.vocab, sampling));
    drafts_.push_back(draftChoices_.back().draw(draftUniform(sampling)));
    likelihood *= std::exp(logits[static_cast<size_t>(drafts_.back())] - draftChoices_.back().logSum);
  } else {
    // The logits may stay where they are.
    const Sampled likeliest = sequence_->sample(sampling);
    drafts_.push_back(likeliest.token);
    likelihood *= std::exp(likeliest.logprob);
  }
  return drafts_.back();
}

void Session::verifyDrafts(int32_t token, const Sampling& sampling, const Job& job, SpeculationRound& round) {
  const auto count = static_cast<int64_t>(drafts_.size());
  std::array<int32_t, kBackendRows> tokens{token};
  std::copy(drafts_.begin(), drafts_.end(), tokens.begin() + 1);
  rows_.clear();
  for (int64_t t = 0; t <= count; ++t) rows_.push_back({sequence_->get(), length_ + t});
  pass_->run(tokens.data(), rows_.data(), count + 1, 0, job);
  round.drafted = count;
  std::array<int64_t, kBackendRows> all{};
  std::iota(all.begin(), all.end(), 0);
  if (sampling.temperature > 0) {
    acceptDrawn(all.data(), sampling, round);
  } else {
    acceptLikeliest(all.data(), round);
  }
  length_ += static_cast<int64_t>(round.tokens.size());
  hasLogits_ = true;
}

void Session::acceptDrawn(const int64_t* rows, Sampling sampling, SpeculationRound& round) {
  const int64_t vocab = model_->config.vocab, count = round.drafted;
  verifiedLogits_.resize(static_cast<size_t>((count + 1) * vocab));
  pass_->logits(rows, count + 1, verifiedLogits_.data());
  scratch_.resize(static_cast<size_t>(vocab));
  for (int64_t t = 0; t <= count; ++t, ++sampling.draw) {
    const float* logits = verifiedLogits_.data() + t * vocab;
    const Choices choices = choicesOf(logits, vocab, sampling);
    const double own = randomUniform(sampling.seed, sampling.draw);
    const auto at = static_cast<size_t>(t);
    const Verdict verdict =
        t < count ? verify(choices, draftChoices_[at], drafts_[at], acceptUniform(sampling), own, scratch_)
                  : Verdict{choices.draw(own), false};
    round.tokens.push_back({verdict.token, logits[verdict.token] - choices.logSum, choices.entropy});
    if (verdict.accepted) continue;
    sequence_->setLogits(logits);
    return;
  }
}

void Session::acceptLikeliest(const int64_t* rows, SpeculationRound& round) {
  const int64_t count = round.drafted;
  const std::vector<Sampled> likeliest = pass_->likeliest(rows, count + 1);
  for (int64_t t = 0; t <= count; ++t) {
    const Sampled& sampled = likeliest[static_cast<size_t>(t)];
    if (sampled.token < 0) throw notFinite();
    round.tokens.push_back(sampled);
    if (t < count && sampled.token == drafts_[static_cast<size_t>(t)]) continue;
    pass_->keepLogits(rows + t, 1);
    return;
  }
}

void Session::rewind(int64_t length) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (length < 0 || length > length_) throw Error(code::internal, "rewind beyond the session's length");
  if (length == length_) return;
  length_ = length;
  hasLogits_ = false;
}

void Session::forward(const int32_t* tokens, int64_t count, int64_t level, bool last, const Job& job) {
  rows_.clear();
  for (int64_t t = 0; t < count; ++t) rows_.push_back({sequence_->get(), length_ + t});
  pass_->run(tokens, rows_.data(), count, level, job);
  if (!last) return;
  const int64_t row = count - 1;
  pass_->keepLogits(&row, 1);
  hasLogits_ = true;
}

}  // namespace flrc
