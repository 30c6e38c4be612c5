#include "calibrate/device_work.h"

#include <algorithm>
#include <exception>

namespace flrc {
namespace {

std::array<FisherScore, kProjections> scoresOf(const double (&sums)[kProjections][3]) {
  std::array<FisherScore, kProjections> scores;
  for (size_t p = 0; p < scores.size(); ++p) scores[p] = {sums[p][0], sums[p][1], sums[p][2]};
  return scores;
}

}  // namespace

DeviceWork::Factors DeviceWork::factors(const float* w, int64_t m, int64_t n, SymmetricView a, SymmetricView b,
                                        SymmetricView seen, const FactorOptions& options) const {
  const int64_t rank = options.rank;
  Factors factors;
  // Pages that nothing is written to until the largest part of the work has been freed.
  factors.u = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(rank * m));
  factors.v = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(rank * n));
  factors.singular.resize(static_cast<size_t>(rank));
  const BackendFactoring factoring = {m,
                                      n,
                                      w,
                                      a.values,
                                      b.values,
                                      seen.values,
                                      rank,
                                      options.randomised,
                                      options.oversampling,
                                      options.powerIterations,
                                      options.jitter,
                                      options.seed,
                                      factors.u.get(),
                                      factors.v.get(),
                                      factors.singular.data()};
  const BackendCancel cancel = cancelOf(job_);
  callBackend(
      [&](BackendFailure* failure) { return backend_.factorize(weights_, &factoring, &cancel, failure); });
  return factors;
}

int64_t DeviceWork::pivotedQr(const float* u, int64_t s, int64_t m, double* r, int32_t* column) const {
  const BackendCancel cancel = cancelOf(job_);
  int64_t rank = 0;
  callBackend([&](BackendFailure* failure) {
    return backend_.pivotedQr(weights_, u, s, m, r, column, &rank, &cancel, failure);
  });
  return rank;
}

LayerPass::LayerPass(const DeviceWork& work, const WideLayer& layer, int64_t index, int64_t longest)
    : work_(work), pass_(nullptr, work.backend().releaseLayerPass) {
  DeviceLayerPass* made = nullptr;
  callBackend([&](BackendFailure* failure) {
    return work.backend().createLayerPass(work.weights(), index, longest, &layer, &made, failure);
  });
  pass_.reset(made);
}

void LayerPass::forward(const float* x, int64_t tokens, float* y) const {
  const BackendCancel cancel = cancelOf(work_.job());
  callBackend([&](BackendFailure* failure) {
    return work_.backend().layerForward(pass_.get(), x, tokens, y, &cancel, failure);
  });
}

void LayerPass::backward(const float* x, int64_t tokens, const float* dy, float* dx,
                         std::array<FisherScore, kProjections>* scores, const TapeKeeper& keeper) const {
  struct Keeping {
    const TapeKeeper& keeper;
    std::exception_ptr thrown;
  } keeping{keeper, nullptr};
  BackendTapes tapes{};
  std::copy(std::begin(keeper.wanted), std::end(keeper.wanted), tapes.wanted);
  tapes.context = &keeping;
  tapes.put = [](void* context, BackendTape tape, int32_t p, const float* values, int64_t count) {
    auto& to = *static_cast<Keeping*>(context);
    try {
      to.keeper.put(tape, p, values, count);
      return true;
    } catch (...) {
      to.thrown = std::current_exception();
      return false;
    }
  };
  double values[kProjections][3] = {};
  const BackendCancel cancel = cancelOf(work_.job());
  callBackend([&](BackendFailure* failure) {
    const BackendCode result = work_.backend().layerBackward(
        pass_.get(), x, tokens, dy, dx, scores ? values : nullptr, &tapes, nullptr, &cancel, failure);
    if (keeping.thrown) std::rethrow_exception(keeping.thrown);
    return result;
  });
  if (scores) *scores = scoresOf(values);
}

void LayerPass::backward(const float* x, int64_t tokens, const float* dy, float* dx,
                         std::array<FisherScore, kProjections>* scores, const SumsInPlace& to,
                         Turns::Turn& turn) const {
  const BackendTurn inTurn{[](void* context) { static_cast<Turns::Turn*>(context)->enter(); },
                           [](void* context) { static_cast<Turns::Turn*>(context)->leave(); }, &turn};
  BackendSums sums{};
  sums.turn = &inTurn;
  if (to.moments) sums.moments = to.moments->get();
  sums.rows = to.rows.data();
  sums.count = std::ssize(to.rows);
  sums.squared = to.squared.data();
  sums.squares = to.squares.data();
  sums.squareCount = std::ssize(to.squared);
  for (size_t i = 0; i < kInputs; ++i) {
    if (to.curves[i]) sums.curves[i] = to.curves[i]->get();
    sums.out[i] = to.out[i].data();
  }
  double values[kProjections][3] = {};
  const BackendCancel cancel = cancelOf(work_.job());
  callBackend([&](BackendFailure* failure) {
    return work_.backend().layerBackward(pass_.get(), x, tokens, dy, dx, scores ? values : nullptr, nullptr,
                                         &sums, &cancel, failure);
  });
  if (scores) *scores = scoresOf(values);
}

HeadGradients::HeadGradients(const DeviceWork& work)
    : work_(work), pass_(nullptr, work.backend().releaseHeadPass) {
  DeviceHeadPass* made = nullptr;
  callBackend(
      [&](BackendFailure* failure) { return work.backend().createHeadPass(work.weights(), &made, failure); });
  pass_.reset(made);
}

double HeadGradients::of(const float* x, const int32_t* ids, int64_t tokens, const BackendLabels& labels,
                         float* dx) const {
  const BackendCancel cancel = cancelOf(work_.job());
  double loss = 0;
  callBackend([&](BackendFailure* failure) {
    return work_.backend().headGradient(pass_.get(), x, ids, tokens, &labels, &loss, dx, &cancel, failure);
  });
  return loss;
}

MomentSums::MomentSums(const DeviceWork& work, const std::vector<int64_t>& widths)
    : work_(work), moments_(nullptr, work.backend().releaseMoments) {
  std::vector<double*> sums;
  for (int64_t width : widths) sums_.emplace_back(width);
  for (PackedSymmetric& sum : sums_) sums.push_back(sum.values.data());
  DeviceMoments* made = nullptr;
  callBackend([&](BackendFailure* failure) {
    return work.backend().createMoments(work.weights(), widths.data(), sums.data(), std::ssize(widths), &made,
                                        failure);
  });
  moments_.reset(made);
}

void MomentSums::add(const std::vector<const float*>& rows, int64_t tokens) {
  const BackendCancel cancel = cancelOf(work_.job());
  callBackend([&](BackendFailure* failure) {
    return work_.backend().addMoments(moments_.get(), rows.data(), tokens, &cancel, failure);
  });
}

std::vector<PackedSymmetric> MomentSums::take() {
  const BackendCancel cancel = cancelOf(work_.job());
  callBackend(
      [&](BackendFailure* failure) { return work_.backend().finishMoments(moments_.get(), &cancel, failure); });
  moments_.reset();
  return std::move(sums_);
}

Curves::Curves(const DeviceWork& work, int64_t n, const std::vector<BackendCurve>& of)
    : work_(work), curves_(nullptr, work.backend().releaseCurves) {
  DeviceCurves* made = nullptr;
  callBackend([&](BackendFailure* failure) {
    return work.backend().createCurves(work.weights(), n, of.data(), std::ssize(of), &made, failure);
  });
  curves_.reset(made);
}

void Curves::add(const float* x, const std::vector<const float*>& g, int64_t tokens,
                 const std::vector<double*>& curves) const {
  const BackendCancel cancel = cancelOf(work_.job());
  callBackend([&](BackendFailure* failure) {
    return work_.backend().addCurves(curves_.get(), x, g.data(), tokens, curves.data(), &cancel, failure);
  });
}

}  // namespace flrc
