#include "model/decode_pass.h"

#include <algorithm>

#include "core/thread_pool.h"
#include "cpu/kernels.h"
#include "linalg/gemm.h"
#include "model/attention.h"

namespace flrc {
namespace {

// Queries of a prefill attention tile, of all heads that share its keys and values.
constexpr int64_t kTileQueries = 128;
// Tokens of a task at most.
constexpr int64_t kTaskTokens = 16;
// Positions times query width below which one attention is not worth sharing.
constexpr int64_t kParallelAttention = 32 * 1024;

void ask(const void* object, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(object) + i, 0, 2);
}

// What describes weights is scattered, and out of the caches when its turn comes: a token's weights have gone
// through them. Each call asks for the next of the three steps from a layer to its blocks, of the layers after
// this one.
void askForDescriptions(const Model& model, int64_t layer) {
  const auto of = [&](int64_t ahead) { return &model.layers[static_cast<size_t>(layer + ahead)].projections; };
  const int64_t left = model.config.layers - layer;
  if (left > 3) ask(of(3), sizeof(*of(3)));
  if (left > 2) {
    for (const Linear& w : *of(2)) {
      ask(w.dense.get(), w.factored() ? 0 : sizeof(RowMatrix));
      ask(w.blocks.data(), w.blocks.size() * sizeof(w.blocks[0]));
    }
  }
  if (left > 1) {
    for (const Linear& w : *of(1)) {
      for (const auto& block : w.blocks) ask(block.get(), sizeof(FactorBlock));
    }
  }
}

}  // namespace

template <typename Body>
void DecodePass::eachToken(int64_t count, const Body& body) const {
  // A task is a claim that threads contend for, and what most bodies do to a token takes no longer than one.
  const int64_t some = std::clamp<int64_t>(count / (4 * model_.threads), 1, kTaskTokens);
  const auto task = [&](int64_t index) {
    for (int64_t t = index * some; t < std::min(count, (index + 1) * some); ++t) body(t);
  };
  if (count == 1) {
    body(int64_t{0});
  } else {
    ThreadPool::shared().parallelFor((count + some - 1) / some, model_.threads, task);
  }
}

void DecodePass::run(const int32_t* tokens, const PassRow* rows, int64_t count, int64_t level, const Job& job) {
  const ModelConfig& config = model_.config;
  const int64_t d = config.hidden, qWidth = config.queryWidth(), kvWidth = config.kvWidth();
  x_.resize(static_cast<size_t>(count * d));
  normed_.resize(static_cast<size_t>(count * d));
  out_.resize(static_cast<size_t>(count * d));
  q_.resize(static_cast<size_t>(count * qWidth));
  k_.resize(static_cast<size_t>(count * kvWidth));
  v_.resize(static_cast<size_t>(count * kvWidth));
  attended_.resize(static_cast<size_t>(count * qWidth));
  gate_.resize(static_cast<size_t>(count * config.intermediate));
  up_.resize(static_cast<size_t>(count * config.intermediate));
  // A prompt's rows are of one sequence, and the last needs the most. Row by row its memory would grow in
  // steps.
  const int64_t first = count > cpu::kMaxColumns ? count - 1 : 0;
  for (int64_t t = first; t < count; ++t) rope_.grow(config, rows[t].position + 1);
  model_.embed(tokens, count, x_.data());
  for (int64_t l = 0; l < config.layers; ++l) {
    job.check();
    for (int64_t t = first; t < count; ++t) rows[t].cache->reserve(l, rows[t].position + 1);
    layer(l, rows, count, level);
  }
}

DecodePass::LayerCalls DecodePass::callsOf(int64_t l, int64_t level) {
  float* const to[] = {q_.data(), k_.data(), v_.data(), out_.data(), gate_.data(), up_.data(), out_.data()};
  LayerCalls calls;
  for (int p = 0; p < kProjections; ++p) {
    calls.all[p] = {&model_.layers[static_cast<size_t>(l)].projections[p], model_.rank(level, l, p), to[p]};
  }
  return calls;
}

void DecodePass::apply(std::span<const LinearCall> calls, const std::vector<float>& x, int64_t count,
                       std::span<const LinearCall> next) {
  applyLinears(calls.data(), static_cast<int>(calls.size()), x.data(), count, model_.threads, scratch_, next);
}

void DecodePass::layer(int64_t l, const PassRow* rows, int64_t count, int64_t level) {
  const ModelConfig& config = model_.config;
  const cpu::Kernels& k = cpu::kernels();
  const int64_t d = config.hidden, qWidth = config.queryWidth(), kvWidth = config.kvWidth();
  const int64_t ff = config.intermediates[static_cast<size_t>(l)];
  const Layer& layer = model_.layers[static_cast<size_t>(l)];
  askForDescriptions(model_, l);
  const LayerCalls calls = callsOf(l, level);
  eachToken(count, [&](int64_t t) {
    k.rmsNorm(x_.data() + t * d, layer.attentionNorm->data(), config.eps, d, normed_.data() + t * d);
  });
  apply(calls.qkv(), normed_, count, calls.o());

  const int32_t rope = config.layerRope[static_cast<size_t>(l)];
  eachToken(count, [&](int64_t t) {
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
    rope_.rotate(rope, q, config.heads, rows[t].position);
    rope_.rotate(rope, key, config.kvHeads, rows[t].position);
    if (config.queryScale != 1) {
      for (int64_t i = 0; i < qWidth; ++i) q[i] *= config.queryScale;
    }
    k.storeKv(rows[t].cache->view(l), rows[t].position, key, v_.data() + t * kvWidth);
  });

  attention(l, rows, count);
  apply(calls.o(), attended_, count, calls.gateUp());
  eachToken(count, [&](int64_t t) {
    join(layer.attentionOutputNorm, t);
    k.rmsNorm(x_.data() + t * d, layer.mlpNorm->data(), config.eps, d, normed_.data() + t * d);
  });
  apply(calls.gateUp(), normed_, count, calls.down());
  const auto gated = k.gatedTimes[static_cast<size_t>(config.activation)];
  eachToken(count, [&](int64_t t) {
    float* gate = gate_.data() + t * ff;
    gated(gate, up_.data() + t * ff, ff, gate);
  });
  if (l + 1 < config.layers) {
    apply(calls.down(), gate_, count, callsOf(l + 1, level).qkv());
  } else {
    apply(calls.down(), gate_, count, {});
  }
  eachToken(count, [&](int64_t t) { join(layer.mlpOutputNorm, t); });
}

void DecodePass::join(const Vector& norm, int64_t t) {
  const cpu::Kernels& k = cpu::kernels();
  const int64_t d = model_.config.hidden;
  float* out = out_.data() + t * d;
  if (norm) k.rmsNorm(out, norm->data(), model_.config.eps, d, out);
  k.axpy(model_.config.residualScale, out, d, x_.data() + t * d);
}

void DecodePass::logits(const int64_t* rows, int64_t count, float* out) {
  const int64_t d = model_.config.hidden, vocab = model_.config.vocab;
  for (int64_t i = 0; i < count; ++i) {
    cpu::kernels().rmsNorm(x_.data() + rows[i] * d, model_.headNorm->data(), model_.config.eps, d,
                           normed_.data() + i * d);
  }
  cpu::setInputs(cpu::kernels(), normed_.data(), d, d, static_cast<int>(count), model_.head->dtype,
                 headInputs_);
  const int64_t step = std::max<int64_t>(256, (vocab + model_.threads * 8 - 1) / (model_.threads * 8));
  ThreadPool::shared().parallelFor((vocab + step - 1) / step, model_.threads, [&](int64_t task) {
    cpu::kernels().rowsTimes(*model_.head, task * step, std::min(vocab, (task + 1) * step), headInputs_, out,
                             vocab);
  });
}

size_t DecodePass::capacity() const {
  size_t floats = scratch_.latent.capacity() + scratch_.prompt.words.capacity();
  for (const auto& call : scratch_.promptLatent) {
    for (const auto& block : call) floats += block.words.capacity();
  }
  for (const auto* buffer : {&x_, &normed_, &q_, &k_, &v_, &attended_, &gate_, &up_, &out_}) {
    floats += buffer->capacity();
  }
  return floats;
}

void DecodePass::attention(int64_t l, const PassRow* rows, int64_t count) {
  const ModelConfig& config = model_.config;
  const int64_t qWidth = config.queryWidth(), window = config.slidingWindow[static_cast<size_t>(l)];
  const int64_t shared = config.heads / config.kvHeads;
  ThreadPool& pool = ThreadPool::shared();

  if (count > cpu::kMaxColumns) {
    const cpu::KvView cache = rows->cache->view(l);
    const int64_t step = std::max<int64_t>(1, kTileQueries / shared), tiles = (count + step - 1) / step;
    pool.parallelFor(tiles * config.kvHeads, model_.threads, [&](int64_t task) {
      // The last queries see the most keys, and the longest tasks go first.
      const int64_t kvHead = task % config.kvHeads, first = (tiles - 1 - task / config.kvHeads) * step;
      const int64_t place = first * qWidth + kvHead * shared * config.headDim;
      const cpu::PromptQueries queries{rows->position + first, std::min(step, count - first), shared, window};
      attendTile(cache, kvHead, queries, q_.data() + place, attended_.data() + place);
    });
    return;
  }
  auto one = [&](int64_t task) {
    thread_local std::vector<float> scores;
    const int64_t kvHead = task % config.kvHeads, t = task / config.kvHeads;
    const int64_t place = t * qWidth + kvHead * shared * config.headDim;
    const int64_t begin = cpu::firstVisible(rows[t].position, window), end = rows[t].position + 1;
    scores.resize(static_cast<size_t>(4 * (end - begin + 2 * cpu::kKeyBlock)));
    cpu::kernels().attend(rows[t].cache->view(l), kvHead, begin, end, q_.data() + place, shared, scores.data(),
                          attended_.data() + place);
  };
  int64_t keys = 0;
  for (int64_t t = 0; t < count; ++t) keys += rows[t].position + 1;
  if (keys * qWidth < kParallelAttention) {
    for (int64_t task = 0; task < count * config.kvHeads; ++task) one(task);
  } else {
    pool.parallelFor(count * config.kvHeads, model_.threads, one);
  }
}

void DecodePass::attendTile(const cpu::KvView& cache, int64_t kvHead, const cpu::PromptQueries& of,
                            const float* q, float* out) const {
  if (cache.half && cpu::kernels().attendPrompt != nullptr) {
    attendRounded(cache, kvHead, of, q, out);
  } else {
    attendWhole(cache, kvHead, of, q, out);
  }
}

void DecodePass::attendRounded(const cpu::KvView& cache, int64_t kvHead, const cpu::PromptQueries& of,
                               const float* q, float* out) const {
  const cpu::Kernels& k = cpu::kernels();
  const int64_t qWidth = model_.config.queryWidth(), hd = model_.config.headDim;
  thread_local cpu::PromptAttention work;
  cpu::resize(work, of.rows(), hd);
  for (int64_t row = 0; row < of.rows(); ++row) {
    cpu::setPromptColumn(k, q + of.place(row, qWidth, hd), hd, row, work.queries);
  }
  k.attendPrompt(cache, kvHead, of, work);
  for (int64_t row = 0; row < of.rows(); ++row) {
    const float* sums = work.sums.data() + row * hd;
    float* to = out + of.place(row, qWidth, hd);
    const float inverse = 1.0f / work.total[static_cast<size_t>(row)];
    for (int64_t i = 0; i < hd; ++i) to[i] = sums[i] * inverse;
  }
}

void DecodePass::attendWhole(const cpu::KvView& cache, int64_t kvHead, const cpu::PromptQueries& of,
                             const float* q, float* out) const {
  const ModelConfig& config = model_.config;
  const int64_t qWidth = config.queryWidth(), hd = config.headDim;
  const int64_t begin = cpu::firstVisible(of.first, of.window), length = of.end() - begin, all = of.rows();
  thread_local std::vector<float> keys, values, queries, scores;
  keys.resize(static_cast<size_t>(length * hd));
  values.resize(keys.size());
  cpu::kernels().widenKv(cache, kvHead, begin, begin + length, keys.data(), values.data());
  // [head][query], so that all heads are one product.
  queries.resize(static_cast<size_t>(all * hd));
  for (int64_t i = 0; i < all; ++i) {
    std::copy_n(q + of.place(i, qWidth, hd), hd, queries.data() + i * hd);
  }
  scores.resize(static_cast<size_t>(all * length));
  gemm(false, false, all, length, hd, 1.0f, queries.data(), hd, keys.data(), length, 0.0f, scores.data(),
       length);
  for (int64_t h = 0; h < of.heads; ++h) {
    attentionSoftmax(scores.data() + h * of.count * length, of.count, length, of.first, begin, of.window, hd);
  }
  gemm(false, false, all, hd, length, 1.0f, scores.data(), length, values.data(), hd, 0.0f, queries.data(), hd);
  for (int64_t i = 0; i < all; ++i) {
    std::copy_n(queries.data() + i * hd, hd, out + of.place(i, qWidth, hd));
  }
}

}  // namespace flrc
