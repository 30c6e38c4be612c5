#include <algorithm>

#include "runtime/products.h"

namespace flrc {

using gpu::SplitRows;

namespace {

constexpr int64_t kMostTokens = 1024, kLeastTokens = 16;
// Of a chunk of tokens.
constexpr int64_t kValues = int64_t{1} << 24;

// What weights of the model are to the bit.
SplitRows::Kind kindOf(const DeviceModel& model) {
  const gpu::LinearWeights& any = model.layers.front().projections[0];
  return any.dtype() == Dtype::bf16 ? SplitRows::Kind::rounded : SplitRows::Kind::halves;
}

}  // namespace

DeviceProducts::DeviceProducts(const DeviceModel& model, const BackendMatrix* of, int64_t count) {
  const SplitRows::Kind kind = kindOf(model);
  int64_t widest = 1;
  double bytes = 0;
  for (int64_t i = 0; i < count; ++i) {
    const auto& [m, n, w] = of[i];
    widest = std::max({widest, m, n});
    bytes += SplitRows::bytesOf(kind, m, n) + SplitRows::bytesOf(kind, n, m);
    ones_.push_back({of[i], SplitRows(kind), SplitRows(kind), {}});
  }
  tokens_ = std::clamp(kValues / widest, kLeastTokens, kMostTokens);
  // Tokens as they come and in halves, and their products.
  gpu::checkRoom("the weights of a layer that is passed", bytes + 3.0 * 4 * tokens_ * widest);
}

void DeviceProducts::multiply(int64_t index, bool back, const float* x, int64_t tokens, float* y,
                              const BackendCancel& cancel) {
  std::lock_guard<std::mutex> working(mutex_);
  gpu::Pieces pieces(cancel);
  One& one = ones_[static_cast<size_t>(index)];
  const auto& [m, n, w] = one.of;
  if (!one.loaded[back]) {
    if (back) {
      one.columns.loadTransposed(pieces, w, m, n);
    } else {
      one.rows.load(pieces, w, m, n);
    }
    one.loaded[back] = true;
  }
  const int64_t from = back ? m : n, to = back ? n : m;
  for (int64_t first = 0; first < tokens; first += tokens_) {
    const int64_t count = std::min(tokens_, tokens - first);
    x_.load(pieces, x + first * from, count, from);
    gpu::multiplySplit(pieces, x_, back ? one.columns : one.rows, count, to, y_);
    pieces.download(y_, 0, y + first * to, static_cast<size_t>(count * to));
  }
}

}  // namespace flrc
