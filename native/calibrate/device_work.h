#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "calibrate/calibrate.h"
#include "core/turns.h"
#include "linalg/factors.h"
#include "model/wide_layer.h"

namespace flrc {

// What a backend computes for a calibration (backend.h), its failures thrown. The model's weights are brought
// there first.
class DeviceWork {
 public:
  DeviceWork(const Model& model, const Job& job)
      : backend_(model.device.backend()), weights_(model.device.weights(model, job)), job_(job) {}

  // U [rank, m], V [rank, n] and the singular values, as nestedFactors; options.rank is set.
  struct Factors {
    std::unique_ptr<float[]> u, v;
    std::vector<double> singular;
  };
  Factors factors(const float* w, int64_t m, int64_t n, SymmetricView a, SymmetricView b, SymmetricView seen,
                  const FactorOptions& options) const;

  // Whether passes add to sums in place.
  bool addsInPlace() const { return backend_.addsInPlace(); }

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

// Sums of x x^T over rows of several widths.
class MomentSums {
 public:
  MomentSums(const DeviceWork& work, const std::vector<int64_t>& widths);

  // Rows of one sequence for each sum, [tokens, width].
  void add(const std::vector<const float*>& rows, int64_t tokens);
  std::vector<PackedSymmetric> take();
  DeviceMoments* get() const { return moments_.get(); }

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
  DeviceCurves* get() const { return curves_.get(); }

 private:
  const DeviceWork& work_;
  std::unique_ptr<DeviceCurves, void (*)(DeviceCurves*)> curves_;
};

// Which of what a layer's pass leaves is wanted, and who keeps it: `values` of `count` are borrowed.
struct TapeKeeper {
  uint32_t wanted[kBackendTapes] = {};  // as BackendTapes
  std::function<void(BackendTape tape, int p, const float* values, int64_t count)> put;

  void want(BackendTape tape, int p) { wanted[static_cast<int>(tape)] |= 1u << p; }
};

// Sums that passes add to where they are computed, one sequence after another.
struct SumsInPlace {
  MomentSums* moments = nullptr;
  std::vector<BackendMomentRows> rows;          // of each of the moments
  std::vector<BackendMomentRows> squared;       // whose columns' squares are summed
  std::vector<double*> squares;                 // to these [width]
  std::array<const Curves*, kInputs> curves{};  // of the projections with each input
  std::array<std::vector<double*>, kInputs> out;
};

// Passes of sequences of up to `longest` tokens through one dense layer, which must outlive it; from any
// thread.
class LayerPass {
 public:
  LayerPass(const DeviceWork& work, const WideLayer& layer, int64_t index, int64_t longest);

  // y = layer(x), [tokens, hidden].
  void forward(const float* x, int64_t tokens, float* y) const;
  // dx from x and dy, and the sequence's scores of the projections, which may be null.
  void backward(const float* x, int64_t tokens, const float* dy, float* dx,
                std::array<FisherScore, kProjections>* scores, const TapeKeeper& tapes) const;
  // What a pass leaves is added up, when its turn has come. dx and scores may be null.
  void backward(const float* x, int64_t tokens, const float* dy, float* dx,
                std::array<FisherScore, kProjections>* scores, const SumsInPlace& sums,
                Turns::Turn& turn) const;

 private:
  const DeviceWork& work_;
  std::unique_ptr<DeviceLayerPass, void (*)(DeviceLayerPass*)> pass_;
};

// Final norm and lm_head, from any thread.
class HeadGradients {
 public:
  explicit HeadGradients(const DeviceWork& work);

  // As HeadPass::lossAndGradient.
  double of(const float* x, const int32_t* ids, int64_t tokens, const BackendLabels& labels, float* dx) const;

 private:
  const DeviceWork& work_;
  std::unique_ptr<DeviceHeadPass, void (*)(DeviceHeadPass*)> pass_;
};

}  // namespace flrc
