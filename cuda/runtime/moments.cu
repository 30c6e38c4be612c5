#include <algorithm>

#include "runtime/moments.h"
#include "runtime/warpgroup_trial.h"

namespace flrc {
namespace {

// Tokens that are in bf16 at a time, and those whose products are added up in f32: few, for what tensor cores
// add they do not all round to nearest.
constexpr int64_t kTokens = 1024, kSumTokens = 256;

double packedCount(int64_t width) { return static_cast<double>(width) * static_cast<double>(width + 1) / 2; }

}  // namespace

DeviceMoments::DeviceMoments(DeviceModel& model, const int64_t* widths, double* const* sums, int64_t count) {
  using gpu::SplitRows;
  double bytes = 0;
  int64_t widest = 0;
  for (int64_t i = 0; i < count; ++i) {
    bytes += packedCount(widths[i]) * sizeof(double);
    widest = std::max(widest, widths[i]);
  }
  gpu::checkRoom("the moments of a layer, of up to " + std::to_string(widest) + " values,",
                 bytes + SplitRows::bytesOf(kTokens, widest) + SplitRows::stagedBytesOf(kTokens, widest));
  for (int64_t i = 0; i < count; ++i) {
    sums_.push_back({widths[i], sums[i], gpu::Buffer<double>(static_cast<size_t>(packedCount(widths[i])))});
  }
  // Once there is room for all: what is freed where there is not must not be in use.
  for (Sum& sum : sums_) model.queue.clear(sum.packed);
}

void DeviceMoments::add(const float* const* x, int64_t tokens, const BackendCancel& cancel) {
  gpu::Pieces pieces(cancel);
  for (size_t i = 0; i < sums_.size(); ++i) {
    const Sum& sum = sums_[i];
    for (int64_t first = 0; first < tokens; first += kTokens) {
      const int64_t count = std::min(kTokens, tokens - first);
      rows_.load(pieces, staged_, x[i] + first * sum.width, count, sum.width);
      add(pieces, i, rows_.halves(), count);
    }
  }
}

void DeviceMoments::add(gpu::Pieces& pieces, size_t index, const gpu::Halves& rows, int64_t tokens) {
  const Sum& sum = sums_[index];
  for (int64_t first = 0; first < tokens; first += kTokens) {
    const int64_t count = std::min(kTokens, tokens - first), whole = count / kSumTokens;
    launch(pieces, sum, rows.from(first), {static_cast<int>(whole), static_cast<int>(kSumTokens)});
    launch(pieces, sum, rows.from(first + whole * kSumTokens), {1, static_cast<int>(count % kSumTokens)});
  }
}

void DeviceMoments::launch(gpu::Pieces& pieces, const Sum& sum, const gpu::Halves& rows,
                           const gpu::Passage& passage) {
  if (passage.sequences == 0 || passage.tokens == 0) return;
  gpu::launchMoment(pieces.stream(), {rows.high, rows.low, passage, sum.packed.global()},
                    gpu::trustedWarpgroups());
  pieces.multiplied(8 * packedCount(sum.width) * passage.sequences * passage.tokens);
}

void DeviceMoments::finish(const BackendCancel& cancel) {
  gpu::Pieces pieces(cancel);
  for (const Sum& sum : sums_) pieces.download(sum.packed, 0, sum.host, sum.packed.count());
}

}  // namespace flrc
