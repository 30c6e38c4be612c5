#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "calibrate/limits.h"
#include "calibrate/pass_text.h"
#include "calibrate/spill_store.h"
#include "core/job.h"
#include "linalg/fisher.h"
#include "linalg/symmetric.h"
#include "model/model.h"

namespace flrc {

// What a projection's factors are optimal under: A = B = I; A = diag of the mean |x_i| (ASVD's scaling with
// alpha 1/2); A = sum x x^T; and B = sum g g^T with it.
enum class Whitening { none, scaled, input, twoSided };

// Shares, in [0, 1], of a moment that is replaced by its own diagonal: M becomes (1 - s) M + s diag(M). A
// finite text says more of single channels than of pairs.
struct Shrinkage {
  double inputs = 0, gradients = 0;
};

inline MomentKinds momentKinds(Whitening whitening, bool keepInputs, bool shrinks) {
  return {whitening != Whitening::none, whitening == Whitening::twoSided, keepInputs, shrinks};
}

struct CalibrationOptions : PassText {
  Whitening whitening = Whitening::twoSided;
  bool curves = true;
  double jitter = 1e-8;
  Shrinkage shrinkage;
  int64_t memory = 0;             // bytes that all of it may hold beside the model's weights
  std::string scratch;            // directory for the rest
  int64_t randomisedRank = 0;     // factors of this many ranks by randomised SVD; 0: all ranks
  bool keepInputMoments = false;  // for rounding to int8 or int4 what is cut from it
  std::string state;              // folder of an interrupted one's finished layers (KeptLayers); empty: none
};

// Ranks of a projection that are factorised.
inline int64_t ranksToFind(const Linear& linear, const CalibrationOptions& options) {
  const int64_t most = std::min(linear.outputs, linear.inputs);
  return options.randomisedRank > 0 ? std::min(options.randomisedRank, most) : most;
}

struct CalibrationSeconds {
  double forward = 0, backward = 0, moments = 0, factorize = 0, curves = 0;

  CalibrationSeconds& operator+=(const CalibrationSeconds& other) {
    forward += other.forward;
    backward += other.backward;
    moments += other.moments;
    factorize += other.factorize;
    curves += other.curves;
    return *this;
  }
};

// What a calibration leaves: scores and curves to allocate by, and nested factors to cut from.
struct Calibration {
  std::shared_ptr<const Model> model;
  std::vector<FisherScore> scores;            // [projections]
  std::vector<std::vector<double>> curves;    // [projections][rank + 1], nats over the whole text
  std::vector<std::vector<double>> singular;  // [projections][rank]
  std::vector<int64_t> ranks;                 // ranks held of each projection
  std::unique_ptr<SpillStore> factors;        // slot 2 p: U [rank, m]; slot 2 p + 1: V [rank, n]
  // Slot momentSlot: A of a projection's input, n x n, packed as PackedSymmetric is; null where they were not
  // kept.
  std::unique_ptr<SpillStore> inputMoments;
  int64_t lossTokens = 0;
  double meanLoss = 0;  // nats a token, under the text's own next token
  CalibrationSeconds seconds;
  LayerLimits limits;
  int64_t memory = 0;  // of the bytes allowed, what the factors leave for cutting

  // What its factors and moments hold in memory, not in files.
  int64_t memoryBytes() const {
    return factors->memoryBytes() + (inputMoments ? inputMoments->memoryBytes() : 0);
  }
};

// The moments of one layer: A of the inputs of (q, k, v), o, (gate, up), down (a diagonal where scaled); of
// every projection's gradients B (m x m). Factors need the wide side's moment only as W sees it, which is a
// fraction of the work and memory: of a tall W (m > n) W^T B W (n x n) stands for B, of a wide o or down (m <
// n) W A W^T (m x m) for A, unless that is scaled.
inline constexpr int kInputs = 4;
struct LayerMoments {
  std::array<PackedSymmetric, kInputs> inputs;
  std::array<PackedSymmetric, kProjections> gradients;
};
inline int inputIndex(int projection) {
  constexpr int index[kProjections] = {0, 0, 0, 1, 2, 2, 3};
  return index[projection];
}
// Where a projection's input moment is kept: one for those that share the input.
inline int64_t momentSlot(int64_t layer, int projection) { return layer * kInputs + inputIndex(projection); }
// Whether this projection's input moment is summed as W A W^T.
bool inputSeenThrough(const ModelConfig& config, int64_t layer, int projection);

// Called with a layer's moments before they are freed (tests), several times where memory allows those of one
// input's projections only; the others are empty.
using MomentObserver = std::function<void(int64_t layer, const LayerMoments&)>;

// One forward pass that keeps the layers' boundaries, then one visit of each layer from the last to the first:
// backward for all sequences, scores, moments, factors, curves; what a layer needed is freed before the next,
// so memory does not grow with depth beyond the boundaries (which spill to `scratch`). Dense models only.
std::unique_ptr<Calibration> calibrate(std::shared_ptr<const Model> model, const CalibrationOptions& options,
                                       const Job& job, const MomentObserver& observer = {});

}  // namespace flrc
