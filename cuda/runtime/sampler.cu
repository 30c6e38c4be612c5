#include <algorithm>

#include "runtime/sampler.h"

namespace flrc::gpu {
namespace {

template <typename T>
Buffer<T> zeros(size_t count) {
  const std::vector<T> values(count);
  return Buffer<T>(values.data(), count);
}

}  // namespace

Sampler::Sampler(int64_t vocab) : vocab_(static_cast<int>(vocab)) {
  const auto chunks = static_cast<size_t>(logitsChunks(vocab_));
  parts_ = Buffer<LikeliestPart>(kLikeliestRows * chunks);
  counters_ = zeros<uint32_t>(kLikeliestRows + 1);
  masses_ = zeros<uint64_t>(kSelectRounds * kSelectBins);
  counts_ = zeros<uint32_t>(kSelectRounds * kSelectBins);
  weights_ = Buffer<uint64_t>(chunks);
  ties_ = Buffer<uint64_t>(chunks);
}

void Sampler::keep(Queue& queue, const std::vector<LikeliestParams::Row>& rows) {
  LikeliestParams params{};
  std::copy(rows.begin(), rows.end(), params.rows);
  params.vocab = vocab_;
  params.parts = parts_.global();
  params.counters = counters_.global();
  launchLikeliest(queue.stream(), params, static_cast<int>(rows.size()), false);
}

void Sampler::draw(Queue& queue, Global<const float> logits, Global<const Likeliest> likeliest,
                   const SamplingRow& sampling, Global<SampledRow> to) {
  launchSample(queue.stream(), {logits, vocab_, sampling, likeliest, to, masses_.global(), counts_.global(),
                                weights_.global(), ties_.global(), counters_.global() + kLikeliestRows});
}

}  // namespace flrc::gpu
