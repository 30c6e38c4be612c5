#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "core/job.h"
#include "model/device.h"
#include "model/model.h"
#include "model/sampler.h"
#include "model/speculate.h"

namespace flrc {

class Session;

// A token to append to a session, and the level to run it at.
struct NextToken {
  Session* session = nullptr;
  int32_t token = 0;
  int64_t level = 0;
};

// A token to draw from a session's logits, and how.
struct NextDraw {
  Session* session = nullptr;
  Sampling sampling;
  std::vector<Penalty> penalties;
};

// One generation's own state, on the backend that the model computes with: the KV cache and the last logits.
// Calls take turns under the session's lock.
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
  // Appends one token to each of several sessions of one model, each named once, up to 16 of equal level in one
  // pass. Every session comes to what append() alone would bring it to, bit by bit. On an error or abort all
  // keep their former lengths.
  static void appendEach(const std::vector<NextToken>& next, const Job& job);
  // Draws from the kept logits of each of several sessions of one model, each named once, what sample() draws
  // from each alone. A token is -1 where a logit is not finite.
  static std::vector<Sampled> sampleEach(const std::vector<NextDraw>& draws);
  // A session of its own that begins with what this one holds, or with the first `length` positions, without
  // logits where that is not all.
  std::shared_ptr<Session> fork(std::optional<int64_t> length = std::nullopt);
  // Goes on with another model's weights, on what it holds. E_INTERNAL unless both models decode on the CPU and
  // their caches and vocabularies have the same shape.
  void moveTo(std::shared_ptr<const Model> model);
  // KL(reference || of), nats, of the distributions that their kept logits give. E_INTERNAL without logits or
  // where vocabularies differ in size, E_NUMERIC for a logit that is not finite.
  static double divergence(Session& reference, Session& of);
  // With penalties on the host, whatever the backend. E_NUMERIC if a logit is not finite.
  Sampled sample(const Sampling& sampling, const std::vector<Penalty>& penalties = {});
  // The likeliest tokens by the kept logits, `count` at most. E_NUMERIC if a logit is not finite.
  std::vector<TokenLogprob> likeliest(int64_t count);
  // One round of self-speculation from `token`, which comes next: drafts on from it at a lower level, runs it
  // and the drafts through level 0 in one pass and keeps what the rejection rule accepts, and one token more.
  // Draw `sampling.draw` + i is token i's. The cache then holds `token` and the accepted drafts as level 0
  // makes them, the logits are those behind them. Greedy tokens, logprobs and logits are bitwise those of
  // single steps. On an error or abort the session keeps its former length. E_CONTEXT if token and drafts
  // overflow the context.
  SpeculationRound speculate(int32_t token, const DraftOptions& options, const Sampling& sampling,
                             const Job& job);
  // Lets the working memory go until it is needed again: what a pass takes is more than a short prompt's cache.
  // Keeps it where a call is under way.
  void rest();
  // Forgets positions from `length` on; the logits are gone with them.
  void rewind(int64_t length);
  int64_t length() const { return length_; }
  // Of the last appended token, [vocab]; empty before the first append and after a rewind.
  std::vector<float> logits() const;
  const Model& model() const { return *model_; }
  // Of the KV cache and the working memory.
  size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  // Hears of a chunk [first, first + count) of the appended tokens, which the pass has just run.
  using OnChunk = std::function<void(int64_t first, int64_t count)>;

  using Locks = std::vector<std::unique_lock<std::mutex>>;
  // Of several sessions, for what they do together. E_INTERNAL if one is named twice or the models differ.
  static Locks lockEach(std::vector<Session*> sessions);
  // The backend's state of this session, made when first needed: that may take as long as the weights' way to
  // it.
  void open(const Job& job);
  // Of what is about to be appended: E_CONTEXT if the context would overflow.
  void checkAppend(const int32_t* tokens, int64_t count, int64_t level) const;
  int64_t appendChunks(const int32_t* tokens, int64_t count, int64_t level, const Job& job,
                       const OnChunk& onChunk);
  void forward(const int32_t* tokens, int64_t count, int64_t level, bool last, const Job& job);
  // Tokens drawn one by one at the drafts' level, and what each was drawn from.
  void draft(int32_t token, const DraftOptions& options, Sampling sampling, const Job& job);
  // One more of them, from the kept logits; its probability is multiplied into `likelihood`.
  int32_t draftToken(const Sampling& sampling, double& likelihood);
  // Runs `token` and the drafts, and fills the round with what is accepted.
  void verifyDrafts(int32_t token, const Sampling& sampling, const Job& job, SpeculationRound& round);
  // Of the rows 0 to `drafted` of the last run, by the rejection rule or by comparing tokens: the round's
  // tokens, and the logits behind the last of them.
  void acceptDrawn(const int64_t* rows, Sampling sampling, SpeculationRound& round);
  void acceptLikeliest(const int64_t* rows, SpeculationRound& round);
  // Some tokens of appendEach, 16 at most and of one level, with `pass` as working memory.
  static void appendRows(const NextToken* next, int64_t count, PassHandle& pass, const Job& job);
  void checkLogits() const;
  // A token is -1 where a logit is not finite.
  Sampled samplePenalised(const Sampling& sampling, const std::vector<Penalty>& penalties) const;
  void countBytes();

  std::shared_ptr<const Model> model_;
  std::mutex mutex_;
  std::atomic<size_t> bytes_{0};
  int64_t length_ = 0;
  bool hasLogits_ = false;
  std::optional<SequenceHandle> sequence_;
  std::optional<PassHandle> pass_;
  std::vector<BackendRow> rows_;
  // Of a round of speculation: the drafts; and unless it is greedy, what they were drawn from and level 0's
  // logits [drafts + 1, vocab].
  std::vector<int32_t> drafts_;
  std::vector<Choices> draftChoices_;
  std::vector<float> verifiedLogits_;
  std::vector<double> scratch_;
};

}  // namespace flrc
