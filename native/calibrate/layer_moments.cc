#include "calibrate/layer_moments.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/thread_pool.h"
#include "linalg/moments.h"

namespace flrc {
namespace {

// Kinds of moments: of an input as factors take it, its index; of a projection's gradient, kInputs + p; of an
// input as it is, kWhole + its index.
constexpr int kWhole = kInputs + kProjections;

// The projection that a moment which factors take is of.
int owner(int kind) { return kind < kInputs ? kInputOwner[kind] : kind - kInputs; }

PackedSymmetric& placeOf(LayerMoments& moments, int kind) {
  return kind < kInputs ? moments.inputs[static_cast<size_t>(kind)]
                        : moments.gradients[static_cast<size_t>(kind - kInputs)];
}

}  // namespace

bool LayerMomentSums::tall(int p) const {
  const Shape shape = shapeOf(p);
  return shape.rows > shape.cols;
}

bool LayerMomentSums::sumsInputs() const {
  return options_.whitening == Whitening::input || options_.whitening == Whitening::twoSided;
}

bool LayerMomentSums::inputSeen(int p) const { return sumsInputs() && inputSeenThrough(config_, layer_, p); }

bool LayerMomentSums::inputWhole(int p) const { return sumsInputs() && !inputSeenThrough(config_, layer_, p); }

LayerMoments LayerMomentSums::of(const WideLayer& layer, const std::vector<int>& projections) {
  LayerMoments moments;
  if (options_.whitening == Whitening::none) return moments;
  if (options_.whitening == Whitening::scaled) return scales(projections);
  const std::vector<int> kinds = kindsOf(projections);
  std::vector<PackedSymmetric> sums = sum(kinds);
  for (size_t i = 0; i < kinds.size(); ++i) {
    const int kind = kinds[i];
    const bool wide = shareOf(kind) != 0 && isSeen(kind);
    shrink(layer, kind, wide ? squares(kind) : std::vector<double>(), sums[i]);
    placeOf(moments, kind) = std::move(sums[i]);
  }
  return moments;
}

// Scales, and a moment that is kept but not summed anyway, are made of tapes.
bool LayerMomentSums::withoutTapes() const {
  bool kept = !options_.keepInputMoments;
  if (options_.keepInputMoments) kept = inputWhole(kO) && inputWhole(kDown);
  return kept && options_.whitening != Whitening::scaled;
}

double LayerMomentSums::shareOf(int kind) const {
  const auto& [ofInputs, ofGradients] = options_.shrinkage;
  return kind < kInputs ? ofInputs : ofGradients;
}

bool LayerMomentSums::isSeen(int kind) const {
  return kind < kInputs ? inputSeen(owner(kind)) : tall(owner(kind));
}

LayerMomentSums::InPlace LayerMomentSums::inPlace() const {
  std::vector<int> all(kProjections);
  std::iota(all.begin(), all.end(), 0);
  const std::vector<int> kinds = kindsOf(all);
  InPlace to{MomentSums(work_, sizesOf(kinds)), kinds, {}, {}, std::vector<std::vector<double>>(kinds.size())};
  for (size_t i = 0; i < kinds.size(); ++i) {
    const int kind = kinds[i], p = owner(kind);
    const BackendTape whole = kind < kInputs ? BackendTape::input : BackendTape::gradient;
    const BackendTape seen = kind < kInputs ? BackendTape::passedOn : BackendTape::passedBack;
    to.rows.push_back({isSeen(kind) ? seen : whole, p});
    if (!isSeen(kind) || shareOf(kind) == 0) continue;
    const Shape shape = shapeOf(p);
    to.squared.push_back({whole, p});
    to.squares[i].resize(static_cast<size_t>(std::max(shape.rows, shape.cols)));
  }
  return to;
}

LayerMoments LayerMomentSums::take(const WideLayer& layer, InPlace& from) const {
  LayerMoments moments;
  std::vector<PackedSymmetric> sums = from.sums.take();
  for (size_t i = 0; i < sums.size(); ++i) {
    shrink(layer, from.kinds[i], from.squares[i], sums[i]);
    placeOf(moments, from.kinds[i]) = std::move(sums[i]);
  }
  return moments;
}

std::vector<int> LayerMomentSums::kindsOf(const std::vector<int>& projections) const {
  std::vector<int> kinds;
  for (int p : projections) {
    if (ownsInput(p) && sumsInputs()) kinds.push_back(inputIndex(p));
    if (options_.whitening == Whitening::twoSided) kinds.push_back(kInputs + p);
  }
  return kinds;
}

std::vector<int64_t> LayerMomentSums::sizesOf(const std::vector<int>& kinds) const {
  std::vector<int64_t> widths;
  for (int kind : kinds) {
    const int p = kind >= kWhole ? kInputOwner[kind - kWhole] : owner(kind);
    const Shape shape = shapeOf(p);
    const bool whole = kind >= kWhole || (kind < kInputs && !inputSeen(p));
    widths.push_back(whole ? shape.cols : std::min(shape.rows, shape.cols));
  }
  return widths;
}

PackedSymmetric LayerMomentSums::input(int p) { return std::move(sum({kWhole + inputIndex(p)}).front()); }

std::vector<PackedSymmetric> LayerMomentSums::sum(const std::vector<int>& kinds) {
  MomentSums sums(work_, sizesOf(kinds));
  std::vector<std::vector<float>> buffers(kinds.size());
  std::vector<const float*> data(kinds.size());
  for (int64_t s = 0; s < tapes_.sequences(); ++s) {
    ThreadPool::shared().parallelFor(std::ssize(kinds), threads_, [&](int64_t i) {
      const auto at = static_cast<size_t>(i);
      data[at] = rows(s, kinds[at], buffers[at]);
    });
    sums.add(data, tapes_.length(s));
  }
  return sums.take();
}

// M becomes (1 - share) M + share diag(M). Of a moment seen through W the diagonal is that of the wide side's
// own, seen through W like the rest: W^T D W or W D W^T, the sum over channels of D_k w_k w_k^T, summed like
// tokens.
void LayerMomentSums::shrink(const WideLayer& layer, int kind, const std::vector<double>& diagonal,
                             PackedSymmetric& moment) const {
  const double share = shareOf(kind);
  if (share == 0) return;
  const int64_t n = moment.n;
  const int p = owner(kind);
  if (!isSeen(kind)) return moment.shrinkToDiagonal(share);
  for (double& value : moment.values) value *= 1 - share;
  const auto wide = std::ssize(diagonal);
  std::vector<float> rows(static_cast<size_t>(wide * n));
  ThreadPool::shared().parallelFor(wide, threads_, [&](int64_t k) {
    const auto scale = static_cast<float>(std::sqrt(share * diagonal[static_cast<size_t>(k)]));
    const float* w = layer.projections[static_cast<size_t>(p)].dense.values.data() + (tall(p) ? k * n : k);
    const int64_t step = tall(p) ? 1 : wide;
    for (int64_t i = 0; i < n; ++i) rows[static_cast<size_t>(k * n + i)] = scale * w[i * step];
  });
  MomentSums extra(work_, {n});
  extra.add({rows.data()}, wide);
  const PackedSymmetric added = std::move(extra.take().front());
  for (size_t i = 0; i < added.values.size(); ++i) moment.values[i] += added.values[i];
}

// The diagonal of the wide side's own moment: of the inputs' squares, or of the clipped gradients'.
std::vector<double> LayerMomentSums::squares(int kind) {
  const int p = owner(kind);
  const Shape shape = shapeOf(p);
  std::vector<double> sums(static_cast<size_t>(std::max(shape.rows, shape.cols)));
  auto work = scratch_.take();
  for (int64_t s = 0; s < tapes_.sequences(); ++s) {
    work_.job().check();
    const int64_t tokens = tapes_.length(s);
    const bool input = kind < kInputs;
    const float* rows = tapes_.get(s, input ? Tapes::input(kind) : Tapes::gradient(p), work->gradient);
    addSquares(rows, input ? std::vector<float>() : clipFactors(rows, tokens, shape.rows), tokens,
               std::ssize(sums), sums.data());
  }
  return sums;
}

// The rows that a moment sums: of A inputs, of a wide o or down as W passes them on; of B gradients.
const float* LayerMomentSums::rows(int64_t s, int kind, std::vector<float>& buffer) {
  if (kind >= kWhole) return tapes_.get(s, Tapes::input(kind - kWhole), buffer);
  if (kind >= kInputs) return clippedGradient(s, kind - kInputs, buffer);
  const int p = kInputOwner[kind];
  return tapes_.get(s, inputSeen(p) ? Tapes::seen(p) : Tapes::input(kind), buffer);
}

// The rows that B sums: clipped gradients, of a tall W as they reach its input.
const float* LayerMomentSums::clippedGradient(int64_t s, int p, std::vector<float>& buffer) {
  const Shape shape = shapeOf(p);
  auto work = scratch_.take();
  const float* g = tapes_.get(s, Tapes::gradient(p), work->gradient);
  const float* rows = tall(p) ? tapes_.get(s, Tapes::seen(p), work->seen) : g;
  scaleRows(rows, clipFactors(g, tapes_.length(s), shape.rows), std::min(shape.rows, shape.cols), buffer);
  return buffer.data();
}

// ASVD's scaling (arXiv 2312.05821, eq. 7, alpha 1/2): channel i weighs (mean |x_i|)^(1/2), so A = diag(mean
// |x_i|).
LayerMoments LayerMomentSums::scales(const std::vector<int>& projections) {
  LayerMoments moments;
  const auto tokens = static_cast<double>(options_.tokens.size());
  ThreadPool::shared().parallelFor(static_cast<int64_t>(projections.size()), threads_, [&](int64_t index) {
    const int p = projections[static_cast<size_t>(index)], i = inputIndex(p);
    if (!ownsInput(p)) return;
    const int64_t n = shapeOf(p).cols;
    std::vector<double> sums(static_cast<size_t>(n));
    std::vector<float> buffer;
    for (int64_t s = 0; s < tapes_.sequences(); ++s) {
      work_.job().check();
      addMagnitudes(tapes_.get(s, Tapes::input(i), buffer), tapes_.length(s), n, sums.data());
    }
    PackedSymmetric& a = moments.inputs[static_cast<size_t>(i)] = PackedSymmetric(n);
    for (int64_t c = 0; c < n; ++c) {
      a.values[static_cast<size_t>(c * (c + 1) / 2 + c)] = sums[static_cast<size_t>(c)] / tokens;
    }
  });
  return moments;
}

}  // namespace flrc
