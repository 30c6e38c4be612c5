#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/job.h"
#include "model/layer_pass.h"
#include "model/model.h"
#include "model/wide_layer.h"
#include "recover/adam.h"

namespace flrc {

// One matrix of a block's factors in training: f32 master values, and what Adam keeps of them. [rows, cols]
struct TrainableMatrix {
  int64_t rows = 0, cols = 0;
  std::vector<float> values, gradient, mean, square;
  // [rows]: root mean square of the row before training, which its step sizes are relative to.
  std::vector<float> scale;

  int64_t count() const { return rows * cols; }
};

// The factors of one block: P [s, n] and C [s, m - s] of a pivoted one, V [s, n] and U [s, m] of a plain one.
struct TrainableBlock {
  std::shared_ptr<const FactorBlock> stored;  // gives pivots and shapes; its values are those before training
  TrainableMatrix p, c;
  std::vector<int32_t> rest;   // [m - s]: the outputs that are not pivots; empty for plain factors
  std::vector<int32_t> steps;  // [s]: steps that each rank has taken; lower levels leave the upper ones out
};

// What one sequence leaves of a layer's passes for the gradients of its weights.
struct LayerTrace {
  const LayerActivations* kept;
  const LayerGradients* gradients;
  int64_t tokens;
};

// The factors of a model, taken out to be trained. Everything else of the model stays as it is. Passes see the
// values rounded to the model's type, as they will be stored, and gradients are taken as if they were not
// rounded (straight-through; Bengio et al. 2013).
class TrainableFactors {
 public:
  // The factors of `start`, to be stored in `dtype`: everything else is converted to it here.
  TrainableFactors(const Model& start, Dtype dtype, const Job& job);

  const std::shared_ptr<const Model>& frame() const { return frame_; }
  // A layer's weights at one level, f32 or in bf16.
  WideLayer widen(int64_t layer, int64_t level, bool rounds) const;
  // The gradients of one layer's factors, summed over the sequences in their order; of traces rounded to bf16,
  // or as they are.
  void gradients(int64_t layer, const WideLayer& wide, const std::vector<LayerTrace>& sequences, bool rounds,
                 const Job& job);
  // Takes the gradients of all that the level reads into Adam's moments. Returns the most by which a step of
  // rate 1 can change the loss to first order; rates are relative to each row's scale. Not finite if a gradient
  // is not.
  double gather(int64_t level, const AdamBetas& betas);
  // Takes the step.
  void apply(int64_t level, const AdamBetas& betas, double rate);

  // The values as they are now, and a model of such values.
  std::vector<float> values() const;
  std::shared_ptr<const Model> model(const std::vector<float>& values, const Job& job) const;
  // Every array that training changes, in a fixed order, to be saved or filled.
  void visitState(const std::function<void(void* data, size_t bytes)>& visit);
  size_t bytes() const;

 private:
  // Rows [begin, end) of a matrix: the share of one task.
  struct Slice {
    TrainableBlock* block;
    TrainableMatrix* matrix;
    int64_t begin, end;
  };

  std::vector<TrainableBlock>& blocks(int64_t projection) { return blocks_[static_cast<size_t>(projection)]; }
  // Ranks of a block that the level reads.
  int64_t activeRank(int64_t projection, size_t block, int64_t level) const;
  // All rows that the level reads.
  std::vector<Slice> slices(int64_t level);

  std::shared_ptr<const Model> frame_;               // everything but the factors' values
  std::vector<std::vector<TrainableBlock>> blocks_;  // [projections][blocks]
};

}  // namespace flrc
