#pragma once

#include <vector>

#include "kernels/sample.h"
#include "test/device.h"

namespace test {

// The working memory that launches of kernels/sample.h share.
class SamplingMemory {
 public:
  explicit SamplingMemory(int vocab)
      : vocab_(vocab),
        parts_(static_cast<size_t>(flrc::gpu::kLikeliestRows * flrc::gpu::logitsChunks(vocab))),
        weights_(static_cast<size_t>(flrc::gpu::kSampleRows * flrc::gpu::logitsChunks(vocab))),
        ties_(static_cast<size_t>(flrc::gpu::kSampleRows * flrc::gpu::logitsChunks(vocab))) {}

  flrc::gpu::LikeliestParams likeliest(const std::vector<flrc::gpu::LikeliestParams::Row>& rows) {
    flrc::gpu::LikeliestParams params{};
    for (size_t r = 0; r < rows.size(); ++r) params.rows[r] = rows[r];
    params.vocab = vocab_;
    params.parts = parts_.global();
    params.counters = counters_.global();
    return params;
  }
  flrc::gpu::SampleParams sample(const std::vector<flrc::gpu::SampleParams::Row>& rows) {
    flrc::gpu::SampleParams params{};
    for (size_t r = 0; r < rows.size(); ++r) params.rows[r] = rows[r];
    params.vocab = vocab_;
    params.masses = masses_.global();
    params.counts = counts_.global();
    params.weights = weights_.global();
    params.ties = ties_.global();
    params.counters = barriers_.global();
    return params;
  }

 private:
  static constexpr size_t kBins =
      size_t{flrc::gpu::kSampleRows} * flrc::gpu::kSelectRounds * flrc::gpu::kSelectBins;

  int vocab_;
  Array<flrc::gpu::LikeliestPart> parts_;
  Array<uint64_t> weights_, ties_, masses_{std::vector<uint64_t>(kBins)};
  Array<uint32_t> counts_{std::vector<uint32_t>(kBins)},
      counters_{std::vector<uint32_t>(flrc::gpu::kLikeliestRows)},
      barriers_{std::vector<uint32_t>(flrc::gpu::kSampleRows)};
};

}  // namespace test
