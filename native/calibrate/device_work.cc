#include "calibrate/device_work.h"

namespace flrc {

void DeviceWork::fisher(int64_t projection, int64_t count, const float* const* w, const float* x,
                        const float* const* g, int64_t tokens, FisherScore* scores) const {
  double sums[kProjections][3] = {};
  const BackendCancel cancel = cancelOf(job_);
  callBackend([&](BackendFailure* failure) {
    return backend_.fisher(weights_, projection, count, w, x, g, tokens, sums, &cancel, failure);
  });
  for (int64_t i = 0; i < count; ++i) scores[i] = {sums[i][0], sums[i][1], sums[i][2]};
}

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

LayerProducts::LayerProducts(const DeviceWork& work, WideLayer& layer)
    : layer_(layer), products_(nullptr, work.backend().releaseProducts) {
  std::vector<BackendMatrix> of;
  for (const WideLinear& wide : layer.projections)
    of.push_back({wide.linear->outputs, wide.linear->inputs, wide.dense.data()});
  DeviceProducts* made = nullptr;
  callBackend([&](BackendFailure* failure) {
    return work.backend().createProducts(work.weights(), of.data(), std::ssize(of), &made, failure);
  });
  products_.reset(made);
  for (int64_t index = 0; index < std::ssize(of); ++index) {
    layer.projections[static_cast<size_t>(index)].multiply = [&work, made, index](bool back, const float* x,
                                                                                  int64_t tokens, float* y) {
      const BackendCancel cancel = cancelOf(work.job());
      callBackend([&](BackendFailure* failure) {
        return work.backend().multiply(made, index, back, x, tokens, y, &cancel, failure);
      });
    };
  }
}

LayerProducts::~LayerProducts() {
  for (WideLinear& wide : layer_.projections) wide.multiply = nullptr;
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
