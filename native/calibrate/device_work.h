#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "calibrate/calibrate.h"
#include "linalg/factors.h"
#include "model/wide_layer.h"

namespace flrc {

// What a backend computes for a calibration (backend.h), its failures thrown. The model's weights are brought
// there first.
class DeviceWork {
 public:
  DeviceWork(const Model& model, const Job& job)
      : backend_(model.device.backend()), weights_(model.device.weights(model, job)), job_(job) {}

  // Of one sequence, for `count` projections of one layer from `projection` on, which share the input x
  // [tokens, n]; w[i] [m, n], g[i] [tokens, m].
  void fisher(int64_t projection, int64_t count, const float* const* w, const float* x, const float* const* g,
              int64_t tokens, FisherScore* scores) const;

  // U [rank, m], V [rank, n] and the singular values, as nestedFactors; options.rank is set.
  struct Factors {
    std::unique_ptr<float[]> u, v;
    std::vector<double> singular;
  };
  Factors factors(const float* w, int64_t m, int64_t n, SymmetricView a, SymmetricView b, SymmetricView seen,
                  const FactorOptions& options) const;

  // As pivotedQr (linalg/pivot.h).
  int64_t pivotedQr(const float* u, int64_t s, int64_t m, double* r, int32_t* column) const;

  const Backend& backend() const { return backend_; }
  DeviceModel* weights() const { return weights_; }
  const Job& job() const { return job_; }

 private:
  const Backend& backend_;
  DeviceModel* weights_;
  const Job& job_;
};

// Products with a layer's weights, which its projections call for as long as this lives.
class LayerProducts {
 public:
  LayerProducts(const DeviceWork& work, WideLayer& layer);
  ~LayerProducts();

 private:
  WideLayer& layer_;
  std::unique_ptr<DeviceProducts, void (*)(DeviceProducts*)> products_;
};

// Sums of x x^T over rows of several widths.
class MomentSums {
 public:
  MomentSums(const DeviceWork& work, const std::vector<int64_t>& widths);

  // Rows of one sequence for each sum, [tokens, width].
  void add(const std::vector<const float*>& rows, int64_t tokens);
  std::vector<PackedSymmetric> take();

 private:
  const DeviceWork& work_;
  std::vector<PackedSymmetric> sums_;
  std::unique_ptr<DeviceMoments, void (*)(DeviceMoments*)> moments_;
};

// The truncation curves of projections with one input of n values. What they are of must outlive them.
class Curves {
 public:
  Curves(const DeviceWork& work, int64_t n, const std::vector<BackendCurve>& of);

  // Adds one sequence, from any thread: x [tokens, n], g[i] [tokens, m], curves[i] [rank + 1].
  void add(const float* x, const std::vector<const float*>& g, int64_t tokens,
           const std::vector<double*>& curves) const;

 private:
  const DeviceWork& work_;
  std::unique_ptr<DeviceCurves, void (*)(DeviceCurves*)> curves_;
};

}  // namespace flrc
