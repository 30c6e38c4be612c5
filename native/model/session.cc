#include "model/session.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "core/error.h"
#include "core/thread_pool.h"
#include "cpu/kernels.h"
#include "linalg/gemm.h"
#include "model/attention.h"

namespace flrc {
namespace {

// Prefill goes in chunks so that activations stay small and an abort is noticed soon.
constexpr int64_t kChunk = 512;
// Queries of a prefill attention tile.
constexpr int64_t kQueryTile = 64;
// Key and value elements below which one attention is not worth waking threads for.
constexpr int64_t kParallelAttention = 32 * 1024;

}  // namespace

Session::Session(std::shared_ptr<const Model> model)
    : model_(std::move(model)), cache_(static_cast<size_t>(model_->config.layers)) {}

int64_t Session::append(const int32_t* tokens, int64_t count, int64_t level, const Job& job) {
  std::lock_guard<std::mutex> lock(mutex_);
  checkAppend(tokens, count, level);
  return appendChunks(tokens, count, level, job, nullptr);
}

std::vector<double> Session::logprobs(const int32_t* tokens, int64_t count, int64_t from, int64_t level,
                                      const Job& job) {
  std::lock_guard<std::mutex> lock(mutex_);
  const int64_t d = model_->config.hidden, vocab = model_->config.vocab;
  if (from < 0 || from > count) throw Error(code::internal, "log probabilities from a token that is not there");
  // Tokens and level must be known to be sound before the first of them is looked up.
  checkAppend(tokens, count, level);
  std::vector<double> result(static_cast<size_t>(count - from));
  if (from == 0 && count > 0) {
    if (logits_.empty()) throw Error(code::internal, "nothing comes before the first token: append one first");
    result[0] = tokenLogprob(logits_.data(), vocab, tokens[0]);
  }
  std::vector<float> logits(static_cast<size_t>(cpu::kMaxColumns * vocab));
  appendChunks(tokens, count, level, job, [&](int64_t first, int64_t chunk) {
    // The hidden state at position t gives the logits of token t + 1.
    const int64_t begin = std::max(first, from - 1), end = std::min(first + chunk, count - 1);
    for (int64_t t = begin; t < end; t += cpu::kMaxColumns) {
      job.check();
      const int64_t columns = std::min<int64_t>(cpu::kMaxColumns, end - t);
      headLogits(x_.data() + (t - first) * d, columns, logits.data());
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
      forward(tokens + done, chunk, level);
      if (onChunk) onChunk(done, chunk);
      if (done + chunk == count) {
        logits_.resize(static_cast<size_t>(model_->config.vocab));
        headLogits(x_.data() + (chunk - 1) * model_->config.hidden, 1, logits_.data());
      }
      length_ += chunk;
    }
  } catch (...) {
    length_ = before;
    logits_.clear();
    throw;
  }
  countBytes();
  return length_;
}

void Session::countBytes() {
  size_t floats = logits_.capacity() + scratch_.t.capacity() + scratch_.u.capacity();
  for (const Cache& cache : cache_) floats += cache.keys.capacity() + cache.values.capacity();
  for (const auto* buffer : {&x_, &normed_, &q_, &k_, &v_, &attended_, &gate_, &up_, &out_}) {
    floats += buffer->capacity();
  }
  bytes_.store(floats * sizeof(float), std::memory_order_relaxed);
}

Sampled Session::sample(const Sampling& sampling) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (logits_.empty()) throw Error(code::internal, "nothing to sample from: append tokens first");
  return sampleToken(logits_.data(), model_->config.vocab, sampling);
}

void Session::rewind(int64_t length) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (length < 0 || length > length_) throw Error(code::internal, "rewind beyond the session's length");
  if (length == length_) return;
  length_ = length;
  logits_.clear();
}

void Session::forward(const int32_t* tokens, int64_t count, int64_t level) {
  const Model& model = *model_;
  const ModelConfig& config = model.config;
  const cpu::Kernels& k = cpu::kernels();
  const int64_t d = config.hidden, qWidth = config.queryWidth(), kvWidth = config.kvWidth();
  ThreadPool& pool = ThreadPool::shared();
  auto eachToken = [&](auto&& body) {
    if (count == 1) {
      body(int64_t{0});
    } else {
      pool.parallelFor(count, model.threads, body);
    }
  };

  x_.resize(static_cast<size_t>(count * d));
  normed_.resize(static_cast<size_t>(count * d));
  out_.resize(static_cast<size_t>(count * d));
  q_.resize(static_cast<size_t>(count * qWidth));
  k_.resize(static_cast<size_t>(count * kvWidth));
  v_.resize(static_cast<size_t>(count * kvWidth));
  attended_.resize(static_cast<size_t>(count * qWidth));
  gate_.resize(static_cast<size_t>(count * config.intermediate));
  up_.resize(static_cast<size_t>(count * config.intermediate));
  rope_.grow(config, length_ + count);
  model.embed(tokens, count, x_.data());

  for (int64_t l = 0; l < config.layers; ++l) {
    const Layer& layer = model.layers[static_cast<size_t>(l)];
    const auto rank = [&](int p) { return model.rank(level, l, p); };
    eachToken([&](int64_t t) {
      k.rmsNorm(x_.data() + t * d, layer.attentionNorm->data(), config.eps, d, normed_.data() + t * d);
    });
    const LinearCall qkv[] = {{&layer.projections[kQ], rank(kQ), q_.data()},
                              {&layer.projections[kK], rank(kK), k_.data()},
                              {&layer.projections[kV], rank(kV), v_.data()}};
    applyLinears(qkv, 3, normed_.data(), count, model.threads, scratch_);

    Cache& cache = cache_[static_cast<size_t>(l)];
    const auto needed = static_cast<size_t>((length_ + count) * kvWidth);
    if (cache.keys.size() < needed) {
      cache.keys.resize(needed + needed / 4);
      cache.values.resize(needed + needed / 4);
    }
    eachToken([&](int64_t t) {
      float* q = q_.data() + t * qWidth;
      float* key = k_.data() + t * kvWidth;
      if (config.qkNorm) {
        for (int64_t h = 0; h < config.heads; ++h) {
          float* head = q + h * config.headDim;
          k.rmsNorm(head, layer.queryNorm->data(), config.eps, config.headDim, head);
        }
        for (int64_t h = 0; h < config.kvHeads; ++h) {
          float* head = key + h * config.headDim;
          k.rmsNorm(head, layer.keyNorm->data(), config.eps, config.headDim, head);
        }
      }
      rope_.rotate(q, config.heads, length_ + t);
      rope_.rotate(key, config.kvHeads, length_ + t);
      const auto at = static_cast<size_t>((length_ + t) * kvWidth);
      std::memcpy(cache.keys.data() + at, key, static_cast<size_t>(kvWidth) * sizeof(float));
      std::memcpy(cache.values.data() + at, v_.data() + t * kvWidth,
                  static_cast<size_t>(kvWidth) * sizeof(float));
    });

    attention(l, count);
    const LinearCall o[] = {{&layer.projections[kO], rank(kO), out_.data()}};
    applyLinears(o, 1, attended_.data(), count, model.threads, scratch_);
    eachToken([&](int64_t t) {
      k.add(out_.data() + t * d, d, x_.data() + t * d);
      k.rmsNorm(x_.data() + t * d, layer.mlpNorm->data(), config.eps, d, normed_.data() + t * d);
    });
    const LinearCall gateUp[] = {{&layer.projections[kGate], rank(kGate), gate_.data()},
                                 {&layer.projections[kUp], rank(kUp), up_.data()}};
    applyLinears(gateUp, 2, normed_.data(), count, model.threads, scratch_);
    eachToken([&](int64_t t) {
      float* gate = gate_.data() + t * config.intermediate;
      k.siluTimes(gate, up_.data() + t * config.intermediate, config.intermediate, gate);
    });
    const LinearCall down[] = {{&layer.projections[kDown], rank(kDown), out_.data()}};
    applyLinears(down, 1, gate_.data(), count, model.threads, scratch_);
    eachToken([&](int64_t t) { k.add(out_.data() + t * d, d, x_.data() + t * d); });
  }
}

void Session::headLogits(const float* hidden, int64_t count, float* logits) {
  const Model& model = *model_;
  const int64_t d = model.config.hidden, vocab = model.config.vocab;
  for (int64_t t = 0; t < count; ++t) {
    cpu::kernels().rmsNorm(hidden + t * d, model.finalNorm->data(), model.config.eps, d,
                           normed_.data() + t * d);
  }
  const int64_t step = std::max<int64_t>(256, (vocab + model.threads * 8 - 1) / (model.threads * 8));
  ThreadPool::shared().parallelFor((vocab + step - 1) / step, model.threads, [&](int64_t task) {
    cpu::kernels().rowsTimes(*model.head, task * step, std::min(vocab, (task + 1) * step), normed_.data(), d,
                             static_cast<int>(count), logits, vocab);
  });
}

void Session::attention(int64_t l, int64_t count) {
  const ModelConfig& config = model_->config;
  const Cache& cache = cache_[static_cast<size_t>(l)];
  const int64_t qWidth = config.queryWidth(), window = config.slidingWindow[static_cast<size_t>(l)];
  ThreadPool& pool = ThreadPool::shared();

  if (count > cpu::kMaxColumns) {
    const int64_t tiles = (count + kQueryTile - 1) / kQueryTile;
    pool.parallelFor(tiles * config.heads, model_->threads, [&](int64_t task) {
      const int64_t head = task % config.heads, first = (task / config.heads) * kQueryTile;
      const int64_t at = first * qWidth + head * config.headDim;
      attendTile(cache, length_ + first, std::min(kQueryTile, count - first), head, window, q_.data() + at,
                 attended_.data() + at);
    });
    return;
  }
  auto one = [&](int64_t task) {
    thread_local std::vector<float> scores;
    const int64_t head = task % config.heads, t = task / config.heads;
    const int64_t at = t * qWidth + head * config.headDim;
    attendOne(cache, length_ + t, head, window, q_.data() + at, attended_.data() + at, scores);
  };
  if ((length_ + count) * count * qWidth < kParallelAttention) {
    for (int64_t task = 0; task < count * config.heads; ++task) one(task);
  } else {
    pool.parallelFor(count * config.heads, model_->threads, one);
  }
}

void Session::attendOne(const Cache& cache, int64_t position, int64_t head, int64_t window, const float* q,
                        float* out, std::vector<float>& scores) const {
  const ModelConfig& config = model_->config;
  const cpu::Kernels& k = cpu::kernels();
  const int64_t kvWidth = config.kvWidth(), hd = config.headDim;
  const int64_t offset = head / (config.heads / config.kvHeads) * hd;
  const int64_t begin = firstVisible(position, window);
  const int64_t length = position + 1 - begin;
  scores.resize(static_cast<size_t>(length));
  const float* keys = cache.keys.data() + begin * kvWidth + offset;
  for (int64_t i = 0; i < length; ++i) scores[static_cast<size_t>(i)] = k.dot(q, keys + i * kvWidth, hd);
  k.softmax(scores.data(), length, 1.0f / std::sqrt(static_cast<float>(hd)));
  std::fill(out, out + hd, 0.0f);
  const float* values = cache.values.data() + begin * kvWidth + offset;
  for (int64_t i = 0; i < length; ++i) k.axpy(scores[static_cast<size_t>(i)], values + i * kvWidth, hd, out);
}

void Session::attendTile(const Cache& cache, int64_t first, int64_t rows, int64_t head, int64_t window,
                         const float* q, float* out) const {
  const ModelConfig& config = model_->config;
  const int64_t kvWidth = config.kvWidth(), qWidth = config.queryWidth(), hd = config.headDim;
  const int64_t offset = head / (config.heads / config.kvHeads) * hd;
  const int64_t begin = firstVisible(first, window);
  const int64_t length = first + rows - begin;
  std::vector<float> scores(static_cast<size_t>(rows * length));
  gemm(false, true, rows, length, hd, 1.0f, q, qWidth, cache.keys.data() + begin * kvWidth + offset, kvWidth,
       0.0f, scores.data(), length);
  attentionSoftmax(scores.data(), rows, length, first, begin, window, hd);
  gemm(false, false, rows, hd, length, 1.0f, scores.data(), length,
       cache.values.data() + begin * kvWidth + offset, kvWidth, 0.0f, out, qWidth);
}

}  // namespace flrc
