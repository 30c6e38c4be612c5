#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/job.h"
#include "cpu/prompt_attention.h"
#include "model/kv_cache.h"
#include "model/linear.h"
#include "model/model.h"
#include "model/rope.h"

namespace flrc {

// One token of a pass: the sequence it belongs to and its place there.
struct PassRow {
  KvCache* cache;
  int64_t position;
};

// Runs tokens through the model against KV caches, and the working memory for it. The caller keeps the model
// alive and the caches to itself.
class DecodePass {
 public:
  explicit DecodePass(const Model& model) : model_(model) {}

  // Token t becomes position rows[t].position of its sequence; caches keep their `length`, which is the
  // caller's to raise. Up to 16 rows (cpu::kMaxColumns) may belong to any sequences, and each gives bitwise
  // what it gives alone; more must be consecutive positions of one sequence (prefill).
  void run(const int32_t* tokens, const PassRow* rows, int64_t count, int64_t level, const Job& job);
  // Logits [count, vocab] of up to 16 rows of the last run.
  void logits(const int64_t* rows, int64_t count, float* out);
  // Floats of working memory.
  size_t capacity() const;

 private:
  // A layer's projections at a level, in the order of Projection; those of one input together.
  struct LayerCalls {
    std::array<LinearCall, kProjections> all;
    std::span<const LinearCall> qkv() const { return {all.data() + kQ, 3}; }
    std::span<const LinearCall> o() const { return {all.data() + kO, 1}; }
    std::span<const LinearCall> gateUp() const { return {all.data() + kGate, 2}; }
    std::span<const LinearCall> down() const { return {all.data() + kDown, 1}; }
  };

  LayerCalls callsOf(int64_t layer, int64_t level);
  void apply(std::span<const LinearCall> calls, const std::vector<float>& x, int64_t count,
             std::span<const LinearCall> next);
  void layer(int64_t index, const PassRow* rows, int64_t count, int64_t level);
  // Token t's output of a block, normed where there is a norm, joins its hidden state.
  void join(const Vector& norm, int64_t t);
  void attention(int64_t layer, const PassRow* rows, int64_t count);
  // A prompt's queries of all heads that share a key/value head: q and out [queries][width] from its first head
  // on. In bf16 where the processor multiplies that and the cache is half; else in f32.
  void attendTile(const cpu::KvView& cache, int64_t kvHead, const cpu::PromptQueries& of, const float* q,
                  float* out) const;
  void attendRounded(const cpu::KvView& cache, int64_t kvHead, const cpu::PromptQueries& of, const float* q,
                     float* out) const;
  void attendWhole(const cpu::KvView& cache, int64_t kvHead, const cpu::PromptQueries& of, const float* q,
                   float* out) const;
  template <typename Body>
  void eachToken(int64_t count, const Body& body) const;

  const Model& model_;
  RopeTable rope_;
  LinearScratch scratch_;
  cpu::RowInputs headInputs_;
  // Activations of the tokens, [count, width]; of an MLP with fewer channels than others its own width.
  std::vector<float> x_, normed_, q_, k_, v_, attended_, gate_, up_, out_;
};

}  // namespace flrc
