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

// out [tokens][rows] = x F^T.
void multiply(gpu::Pieces& pieces, const SplitRows& x, const SplitRows& factors, int64_t tokens, int64_t rows,
              gpu::Buffer<float>& out) {
  gpu::multiply(pieces, {x.halves(), factors.halves(), tokens, rows, out.global(), rows});
}

// The most that any of the projections has, 0 for none.
struct Most {
  int64_t outputs = 0, ranks = 0, whole = 0;  // whole: outputs of those with fewer ranks than there are

  Most(const BackendCurve* of, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      outputs = std::max(outputs, of[i].m);
      ranks = std::max(ranks, of[i].rank);
      if (of[i].w) whole = std::max(whole, of[i].m);
    }
  }
};

int64_t tokensAtOnce(int64_t n, const Most& most) {
  return std::clamp(kValues / std::max(n, most.outputs), kLeastTokens, kMostTokens);
}

}  // namespace

double DeviceCurves::bytesOf(int64_t n, const BackendCurve* of, int64_t count) {
  const Most most(of, count);
  const int64_t tokens = tokensAtOnce(n, most);
  double bytes = 0, staged = SplitRows::stagedBytesOf(tokens, n);
  for (int64_t i = 0; i < count; ++i) {
    const BackendCurve& one = of[i];
    bytes += SplitRows::bytesOf(one.rank, one.m) + SplitRows::bytesOf(one.rank, n) +
             8.0 * static_cast<double>(one.rank + 1);
    if (one.w) bytes += SplitRows::bytesOf(one.m, n);
    staged = std::max({staged, SplitRows::stagedBytesOf(one.rank, one.m), SplitRows::stagedBytesOf(one.m, n)});
  }
  // Of a chunk of tokens: rows in halves, and gradients as they come; what they are multiplied to.
  const int64_t floats = 2 * most.outputs + n + 2 * most.ranks + most.whole + 1;
  return bytes + staged + 4.0 * static_cast<double>(tokens) * static_cast<double>(floats) +
         8.0 * static_cast<double>(gpu::kCurveBlocks * (most.ranks + 1));
}

DeviceCurves::DeviceCurves(int64_t n, const BackendCurve* of, int64_t count) : n_(n) {
  const Most most(of, count);
  if (gpu::curveSharedBytes(static_cast<int>(most.ranks)) > gpu::mostSharedBytes()) {
    throw gpu::Failure(BackendCode::device, "truncation curves of " + std::to_string(most.ranks) +
                                                " ranks are more than this GPU's blocks can have in shared "
                                                "memory; calibrate on the CPU (device cpu)");
  }
  gpu::checkRoom("the factors of projections whose curves are computed", bytesOf(n, of, count));
  for (int64_t i = 0; i < count; ++i) ones_.emplace_back(of[i], n);
  // At once, so that what asks for the rest of memory sees that they are taken.
  tokens_ = tokensAtOnce(n, most);
  x_ = SplitRows(tokens_, n);
  g_ = SplitRows(tokens_, most.outputs);
  const auto floats = [this](int64_t width) {
    return gpu::Buffer<float>(static_cast<size_t>(tokens_ * width));
  };
  gradients_ = floats(most.outputs);
  ug_ = floats(most.ranks);
  vx_ = floats(most.ranks);
  wx_ = floats(most.whole);
  whole_ = floats(1);
  partial_ = gpu::Buffer<double>(gpu::kCurveBlocks * static_cast<size_t>(most.ranks + 1));
}

void DeviceCurves::load(gpu::Pieces& pieces) {
  if (loaded_) return;
  for (One& one : ones_) {
    one.u.load(pieces, staged_, one.of.u, one.of.rank, one.of.m);
    one.v.load(pieces, staged_, one.of.v, one.of.rank, n_);
    if (one.of.w) one.w.load(pieces, staged_, one.of.w, one.of.m, n_);
    pieces.clear(one.curve);
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
      pieces.upload(gradients_, 0, g[i] + first * m, static_cast<size_t>(count * m));
      add(pieces, ones_[i], gradients_.read(), count);
    }
  }
  for (size_t i = 0; i < ones_.size(); ++i) take(pieces, i, out[i]);
}

void DeviceCurves::add(gpu::Pieces& pieces, size_t index, gpu::Global<const float> x,
                       gpu::Global<const float> g, int64_t tokens) {
  load(pieces);
  for (int64_t first = 0; first < tokens; first += tokens_) {
    const int64_t count = std::min(tokens_, tokens - first);
    x_.split(pieces, x + first * n_, count, n_);
    add(pieces, ones_[index], g + first * ones_[index].of.m, count);
  }
}

void DeviceCurves::take(gpu::Pieces& pieces, size_t index, double* out) {
  gpu::Buffer<double>& curve = ones_[index].curve;
  part_.resize(curve.count());
  pieces.download(curve, 0, part_.data(), part_.size());
  for (size_t r = 0; r < part_.size(); ++r) out[r] += part_[r];
  pieces.clear(curve);
}

void DeviceCurves::add(gpu::Pieces& pieces, const One& one, gpu::Global<const float> g, int64_t tokens) {
  const int64_t m = one.of.m, rank = one.of.rank;
  g_.split(pieces, g, tokens, m);
  multiply(pieces, g_, one.u, tokens, rank, ug_);
  multiply(pieces, x_, one.v, tokens, rank, vx_);
  gpu::CurveParams params{};
  params.u = ug_.read();
  params.v = vx_.read();
  if (one.of.w) {
    multiply(pieces, x_, one.w, tokens, m, wx_);
    gpu::launchDots(pieces.stream(),
                    {g, wx_.read(), static_cast<int>(tokens), static_cast<int>(m), whole_.global()});
    params.whole = whole_.read();
  }
  params.tokens = static_cast<int>(tokens);
  params.rank = static_cast<int>(rank);
  params.partial = partial_.global();
  params.curve = one.curve.global();
  gpu::launchCurve(pieces.stream(), params);
}

}  // namespace flrc
