#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "core/job.h"
#include "model/linear.h"
#include "model/model.h"
#include "model/rope.h"
#include "model/sampler.h"

namespace flrc {

// One generation's own state: the KV cache and the last logits. Calls take turns under the session's lock.
class Session {
 public:
  explicit Session(std::shared_ptr<const Model> model);

  // Appends tokens at `level`, in chunks, and keeps the logits of the last one. Returns the new length.
  // E_CONTEXT if the context would overflow. On an error or abort the session keeps its former length.
  int64_t append(const int32_t* tokens, int64_t count, int64_t level, const Job& job);
  // Appends like append() and returns, for each token from index `from` on, the natural log of its probability
  // given all before it: count - from values, of the logits that decoding would sample from. With from = 0
  // the first token's comes from the kept logits, which must be there. E_NUMERIC if a logit is not finite.
  std::vector<double> logprobs(const int32_t* tokens, int64_t count, int64_t from, int64_t level,
                               const Job& job);
  Sampled sample(const Sampling& sampling);
  // Forgets positions from `length` on; the logits are gone with them.
  void rewind(int64_t length);
  int64_t length() const { return length_; }
  // Of the last appended token, [vocab]; empty before the first append and after a rewind.
  const std::vector<float>& logits() const { return logits_; }
  const Model& model() const { return *model_; }
  // Of the KV cache and the working memory.
  size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  // [position, kvHeads * headDim] of one layer, rotary applied to keys.
  struct Cache {
    std::vector<float> keys, values;
  };

  // Hears of a chunk [first, first + count) of the appended tokens, whose hidden states are in x_.
  using OnChunk = std::function<void(int64_t first, int64_t count)>;

  // Of what is about to be appended: E_CONTEXT if the context would overflow.
  void checkAppend(const int32_t* tokens, int64_t count, int64_t level) const;
  int64_t appendChunks(const int32_t* tokens, int64_t count, int64_t level, const Job& job,
                       const OnChunk& onChunk);
  void forward(const int32_t* tokens, int64_t count, int64_t level);
  void attention(int64_t layer, int64_t count);
  void attendOne(const Cache& cache, int64_t position, int64_t head, int64_t window, const float* q, float* out,
                 std::vector<float>& scores) const;
  void attendTile(const Cache& cache, int64_t first, int64_t rows, int64_t head, int64_t window, const float* q,
                  float* out) const;
  // Of `count` <= kMaxColumns hidden states [count, hidden] to logits [count, vocab].
  void headLogits(const float* hidden, int64_t count, float* logits);
  void countBytes();

  std::shared_ptr<const Model> model_;
  std::mutex mutex_;
  int64_t length_ = 0;
  std::atomic<size_t> bytes_{0};
  std::vector<Cache> cache_;
  RopeTable rope_;
  std::vector<float> logits_;
  LinearScratch scratch_;
  // Activations of the tokens being appended, [count, width].
  std::vector<float> x_, normed_, q_, k_, v_, attended_, gate_, up_, out_;
};

}  // namespace flrc
