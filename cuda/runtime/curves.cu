#include <algorithm>
#include <string>

#include "kernels/calibrate.h"
#include "runtime/curves.h"

namespace flrc {

using gpu::SplitRows;

namespace {

constexpr int64_t kMostTokens = 1024, kLeastTokens = 16;
// Of a chunk of tokens, in any of the working buffers.
constexpr int64_t kValues = int64_t{1} << 24;

// out [tokens][rows] = x F^T, for which there is room.
void multiply(gpu::Pieces& pieces, const SplitRows& x, const SplitRows& factors, int64_t tokens, int64_t rows,
              gpu::Buffer<float>& out) {
  pieces.grow(out, static_cast<size_t>(tokens * rows));
  gpu::multiply(pieces, {x.halves(), factors.halves(), tokens, rows, out.global(), rows});
}

}  // namespace

DeviceCurves::DeviceCurves(int64_t n, const BackendCurve* of, int64_t count) : n_(n) {
  int64_t widest = n, ranks = 0;
  double bytes = 0, staged = 0;
  for (int64_t i = 0; i < count; ++i) {
    const BackendCurve& one = of[i];
    widest = std::max(widest, one.m);
    ranks = std::max(ranks, one.rank);
    bytes += SplitRows::bytesOf(one.rank, one.m) + SplitRows::bytesOf(one.rank, n);
    if (one.w) bytes += SplitRows::bytesOf(one.m, n);
    staged = std::max({staged, SplitRows::stagedBytesOf(one.rank, one.m), SplitRows::stagedBytesOf(one.m, n)});
  }
  tokens_ = std::clamp(kValues / widest, kLeastTokens, kMostTokens);
  if (gpu::curveSharedBytes(static_cast<int>(ranks)) > gpu::mostSharedBytes()) {
    throw gpu::Failure(BackendCode::device, "truncation curves of " + std::to_string(ranks) +
                                                " ranks are more than this GPU's blocks can have in shared "
                                                "memory; calibrate on the CPU (device cpu)");
  }
  // Rows as they come and in halves, their products.
  gpu::checkRoom("the factors of projections whose curves are computed",
                 bytes + staged + 6.0 * 4 * tokens_ * widest);
  for (int64_t i = 0; i < count; ++i) ones_.emplace_back(of[i], n);
}

void DeviceCurves::load(gpu::Pieces& pieces) {
  if (loaded_) return;
  for (One& one : ones_) {
    one.u.load(pieces, staged_, one.of.u, one.of.rank, one.of.m);
    one.v.load(pieces, staged_, one.of.v, one.of.rank, n_);
    if (one.of.w) one.w.load(pieces, staged_, one.of.w, one.of.m, n_);
  }
  loaded_ = true;
}

void DeviceCurves::add(const float* x, const float* const* g, int64_t tokens, double* const* out,
                       const BackendCancel& cancel) {
  std::lock_guard<std::mutex> working(mutex_);
  gpu::Pieces pieces(cancel);
  load(pieces);
  for (int64_t first = 0; first < tokens; first += tokens_) {
    const int64_t count = std::min(tokens_, tokens - first);
    x_.load(pieces, staged_, x + first * n_, count, n_);
    for (size_t i = 0; i < ones_.size(); ++i) {
      const int64_t m = ones_[i].of.m;
      pieces.grow(gradients_, static_cast<size_t>(count * m));
      pieces.upload(gradients_, 0, g[i] + first * m, static_cast<size_t>(count * m));
      add(pieces, ones_[i], gradients_.read(), count, out[i]);
    }
  }
}

void DeviceCurves::add(gpu::Pieces& pieces, size_t index, gpu::Global<const float> x,
                       gpu::Global<const float> g, int64_t tokens, double* out) {
  load(pieces);
  for (int64_t first = 0; first < tokens; first += tokens_) {
    const int64_t count = std::min(tokens_, tokens - first);
    x_.split(pieces, x + first * n_, count, n_);
    add(pieces, ones_[index], g + first * ones_[index].of.m, count, out);
  }
}

void DeviceCurves::add(gpu::Pieces& pieces, const One& one, gpu::Global<const float> g, int64_t tokens,
                       double* out) {
  const int64_t m = one.of.m, rank = one.of.rank;
  g_.split(pieces, g, tokens, m);
  multiply(pieces, g_, one.u, tokens, rank, ug_);
  multiply(pieces, x_, one.v, tokens, rank, vx_);
  gpu::CurveParams params{};
  params.u = ug_.read();
  params.v = vx_.read();
  if (one.of.w) {
    multiply(pieces, x_, one.w, tokens, m, wx_);
    pieces.grow(whole_, static_cast<size_t>(tokens));
    gpu::launchDots(pieces.stream(),
                    {g, wx_.read(), static_cast<int>(tokens), static_cast<int>(m), whole_.global()});
    params.whole = whole_.read();
  }
  params.tokens = static_cast<int>(tokens);
  params.rank = static_cast<int>(rank);
  pieces.grow(partial_, static_cast<size_t>(gpu::kCurveBlocks * (rank + 1)));
  pieces.grow(curve_, static_cast<size_t>(rank + 1));
  params.partial = partial_.global();
  params.curve = curve_.global();
  pieces.clear(curve_);
  gpu::launchCurve(pieces.stream(), params);
  part_.resize(static_cast<size_t>(rank + 1));
  pieces.download(curve_, 0, part_.data(), part_.size());
  for (size_t r = 0; r < part_.size(); ++r) out[r] += part_[r];
}

}  // namespace flrc
