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

Sampler::Sampler(int64_t vocab, int multiprocessors)
    : vocab_(static_cast<int>(vocab)), multiprocessors_(multiprocessors) {
  const auto chunks = static_cast<size_t>(logitsChunks(vocab_));
  constexpr size_t kBins = kSampleRows * kSelectRounds * kSelectBins;
  parts_ = Buffer<LikeliestPart>(kLikeliestRows * chunks);
  counters_ = zeros<uint32_t>(kLikeliestRows + kSampleRows);
  masses_ = zeros<uint64_t>(kBins);
  counts_ = zeros<uint32_t>(kBins);
  weights_ = Buffer<uint64_t>(kSampleRows * chunks);
  ties_ = Buffer<uint64_t>(kSampleRows * chunks);
}

void Sampler::keep(Queue& queue, const std::vector<LikeliestParams::Row>& rows) {
  LikeliestParams params{};
  std::copy(rows.begin(), rows.end(), params.rows);
  params.vocab = vocab_;
  params.parts = parts_.global();
  params.counters = counters_.global();
  launchLikeliest(queue.stream(), params, static_cast<int>(rows.size()), false);
}

void Sampler::draw(Queue& queue, const std::vector<SampleParams::Row>& rows) {
  SampleParams params{};
  std::copy(rows.begin(), rows.end(), params.rows);
  params.vocab = vocab_;
  params.masses = masses_.global();
  params.counts = counts_.global();
  params.weights = weights_.global();
  params.ties = ties_.global();
  params.counters = counters_.global() + kLikeliestRows;
  launchSample(queue.stream(), params, static_cast<int>(rows.size()), multiprocessors_);
}

}  // namespace flrc::gpu
