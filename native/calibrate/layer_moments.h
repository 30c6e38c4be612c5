#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "calibrate/calibrate.h"
#include "calibrate/device_work.h"
#include "core/recycled.h"
#include "model/wide_layer.h"

namespace flrc {

// The projection whose input stands for each distinct input.
inline constexpr int kInputOwner[kInputs] = {kQ, kO, kGate, kDown};
inline bool ownsInput(int projection) { return projection == kInputOwner[inputIndex(projection)]; }

// What the passes of a layer leave of every sequence: the inputs, g of every projection, and what a tall W (its
// g W) or a wide one (its W x) sees.
class Tapes {
 public:
  Tapes(const std::vector<int32_t>& lengths, std::shared_ptr<SpillSpace> space)
      : lengths_(lengths), store_(std::move(space), lengths.size() * kPerSequence) {}

  static int input(int i) { return i; }
  static int gradient(int p) { return kInputs + p; }
  static int seen(int p) { return kInputs + kProjections + p; }
  static int of(BackendTape tape, int p) {
    if (tape == BackendTape::input) return input(inputIndex(p));
    return tape == BackendTape::gradient ? gradient(p) : seen(p);
  }

  int64_t sequences() const { return std::ssize(lengths_); }
  int64_t length(int64_t s) const { return lengths_[static_cast<size_t>(s)]; }
  void put(int64_t s, int tape, const float* values, size_t count) { store_.put(slot(s, tape), values, count); }
  const float* get(int64_t s, int tape, std::vector<float>& scratch) const {
    return store_.get(slot(s, tape), scratch);
  }

 private:
  static constexpr int kPerSequence = kInputs + 2 * kProjections;
  static size_t slot(int64_t s, int tape) { return static_cast<size_t>(s * kPerSequence + tape); }

  const std::vector<int32_t>& lengths_;
  SpillStore store_;
};

// Sums the moments of one layer from its tapes.
class LayerMomentSums {
 public:
  LayerMomentSums(const Model& model, int64_t layer, const CalibrationOptions& options, const Tapes& tapes,
                  const DeviceWork& work)
      : config_(model.config),
        layer_(layer),
        threads_(model.threads),
        options_(options),
        tapes_(tapes),
        work_(work) {}

  bool tall(int p) const;
  // Whether the A that factors of p take is W A W^T.
  bool inputSeen(int p) const;
  // Whether it is A itself.
  bool inputWhole(int p) const;

  // The moments that factorising these projections of `layer` takes, shrunk as the options say.
  LayerMoments of(const WideLayer& layer, const std::vector<int>& projections);
  // Whether all that is asked for can be summed as it is computed, from no tapes.
  bool withoutTapes() const;
  // Where passes add up the moments of all projections, and these, shrunk, when all have passed.
  struct InPlace {
    MomentSums sums;
    std::vector<int> kinds;
    std::vector<BackendMomentRows> rows, squared;
    std::vector<std::vector<double>> squares;  // [kinds]: the wide side's diagonal, where shrinking takes it
  };
  InPlace inPlace() const;
  LayerMoments take(const WideLayer& layer, InPlace& from) const;
  // A of p's input, whatever the whitening.
  PackedSymmetric input(int p);
  // Frees working memory.
  void freeScratch() { scratch_.clear(); }

 private:
  // Whether the whitening takes a moment of the inputs, and not their magnitudes alone.
  bool sumsInputs() const;

  struct Scratch {
    std::vector<float> gradient, seen;
  };

  Shape shapeOf(int p) const { return projectionShape(config_, layer_, p); }
  std::vector<int> kindsOf(const std::vector<int>& projections) const;
  std::vector<int64_t> sizesOf(const std::vector<int>& kinds) const;
  std::vector<PackedSymmetric> sum(const std::vector<int>& kinds);
  double shareOf(int kind) const;
  // Whether factors take the moment as W sees it.
  bool isSeen(int kind) const;
  void shrink(const WideLayer& layer, int kind, const std::vector<double>& diagonal,
              PackedSymmetric& moment) const;
  std::vector<double> squares(int kind);
  const float* rows(int64_t s, int kind, std::vector<float>& buffer);
  const float* clippedGradient(int64_t s, int p, std::vector<float>& buffer);
  LayerMoments scales(const std::vector<int>& projections);

  const ModelConfig& config_;
  const int64_t layer_;
  const int threads_;
  const CalibrationOptions& options_;
  const Tapes& tapes_;
  const DeviceWork& work_;
  Recycled<Scratch> scratch_;
};

}  // namespace flrc
