#include "model/session.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace flrc {
namespace {

// Prefill goes in chunks so that activations stay small and an abort is noticed soon.
constexpr int64_t kChunk = 512;

}  // namespace

Session::Session(std::shared_ptr<const Model> model)
    : model_(std::move(model)), cache_(model_->config.layers), pass_(*model_) {}

int64_t Session::append(const int32_t* tokens, int64_t count, int64_t level, const Job& job) {
  std::lock_guard<std::mutex> lock(mutex_);
  const ModelConfig& config = model_->config;
  model_->checkLevel(level);
  if (cache_.length + count > config.context) {
    throw Error(code::context, std::to_string(cache_.length + count) + " tokens do not fit the context of " +
                                   std::to_string(config.context));
  }
  model_->checkTokens(tokens, count);
  const int64_t before = cache_.length;
  try {
    for (int64_t done = 0; done < count; done += kChunk) {
      job.check();
      const int64_t chunk = std::min(kChunk, count - done);
      forward(tokens + done, chunk, level, done + chunk == count, job);
      cache_.length += chunk;
    }
  } catch (...) {
    cache_.length = before;
    logits_.clear();
    throw;
  }
  countBytes();
  return cache_.length;
}

void Session::countBytes() {
  size_t floats = logits_.capacity() + pass_.capacity();
  for (const auto& layer : cache_.layers) floats += layer.keys.capacity() + layer.values.capacity();
  bytes_.store(floats * sizeof(float), std::memory_order_relaxed);
}

Sampled Session::sample(const Sampling& sampling) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (logits_.empty()) throw Error(code::internal, "nothing to sample from: append tokens first");
  return sampleToken(logits_.data(), model_->config.vocab, sampling);
}

void Session::rewind(int64_t length) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (length < 0 || length > cache_.length) throw Error(code::internal, "rewind beyond the session's length");
  if (length == cache_.length) return;
  cache_.length = length;
  logits_.clear();
}

void Session::forward(const int32_t* tokens, int64_t count, int64_t level, bool last, const Job& job) {
  rows_.clear();
  for (int64_t t = 0; t < count; ++t) rows_.push_back({&cache_, cache_.length + t});
  pass_.run(tokens, rows_.data(), count, level, job);
  if (!last) return;
  const int64_t row = count - 1;
  logits_.resize(static_cast<size_t>(model_->config.vocab));
  pass_.logits(&row, 1, logits_.data());
}

}  // namespace flrc
