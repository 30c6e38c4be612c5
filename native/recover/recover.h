#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "calibrate/spill_store.h"
#include "core/job.h"
#include "core/recycled.h"
#include "model/head_pass.h"
#include "model/model.h"
#include "model/rope.h"
#include "recover/distil.h"
#include "recover/trainable.h"

namespace flrc {

struct RecoveryOptions {
  std::vector<int32_t> tokens;   // all windows, one after another
  std::vector<int32_t> lengths;  // tokens in each, at least 2
  Dtype dtype = Dtype::bf16;     // of the model to be made
  int64_t memory = 0;            // bytes that the teacher's states and kept activations may hold
  std::string scratch;           // directory for the teacher's states beyond that
};

struct RecoveryStep {
  std::vector<int32_t> windows;  // the batch, each window once
  int64_t level = 0;
  AdamBetas betas;
  // The step's length, relative to the root mean square of each row, is at most `rate`, and such that to first
  // order the batch's KL changes by no more than `change` of itself.
  double rate = 0, change = 0;
};

struct RecoveryFigures {
  double kl = 0;    // mean KL(dense || compressed) a position, nats, before the step
  double loss = 0;  // mean next-token loss of the compressed model, nats
  double rate = 0;  // taken; of steps only
};

// Distillation of a dense model into the factors of its compressed one: the factors are trained, by Adam, for
// KL(dense || compressed) over the tokens of the windows; nothing else of the model changes, and no token is
// used as a label. The same calls give the same bytes at any thread count. Calls exclude each other.
class Recovery {
 public:
  // `start` has the levels and factors (at full precision where dtype is narrower), `teacher` is the dense
  // model.
  Recovery(std::shared_ptr<const Model> start, std::shared_ptr<const Model> teacher, RecoveryOptions options,
           const Job& job);

  // One step of Adam at one level. E_NUMERIC if the loss or its gradient is not finite.
  RecoveryFigures step(const RecoveryStep& step, const Job& job);
  RecoveryFigures evaluate(const std::vector<int32_t>& windows, int64_t level, const Job& job);
  // Remembers the factors as they are as the ones to finish with.
  void keep();
  // The model of the factors kept, or of the present ones where none were.
  std::shared_ptr<const Model> finish(const Job& job);

  // The whole state of the training and `note`, in a file that is made or replaced, and back. E_IO names the
  // file; one that is not of this model and these options is E_MODEL_FORMAT.
  void save(const std::string& file, const std::string& note, const Job& job);
  std::string load(const std::string& file, const Job& job);

  // Bytes that the factors hold in training.
  size_t bytes() const { return factors_.bytes(); }

 private:
  // The present factors on some windows, at one level.
  struct Pass {
    Pass(const std::vector<int32_t>& of, int64_t at, bool trains) : windows(of), level(at), training(trains) {}
    const std::vector<int32_t>& windows;
    int64_t level;
    bool training;        // whether a backward pass follows
    bool rounds = false;  // products with weights, and gradients of these, are of bf16
    int64_t positions = 0;
    std::vector<std::vector<float>> hidden;                   // [windows]: states, or on the way back gradients
    std::vector<std::vector<std::vector<float>>> boundaries;  // [layers][windows], for training
    int64_t firstKept = 0;                                    // layers from here on keep their activations
  };

  Pass pass(const std::vector<int32_t>& windows, int64_t level, bool training) const;
  const int32_t* tokens(int32_t window) const {
    return options_.tokens.data() + starts_[static_cast<size_t>(window)];
  }
  int64_t length(int32_t window) const { return options_.lengths[static_cast<size_t>(window)]; }
  // The teacher's final hidden states of these windows, computed where they were not yet.
  void teach(const std::vector<int32_t>& windows, bool rounds, const Job& job);
  void forward(Pass& pass, const Job& job);
  RecoveryFigures head(Pass& pass, const Job& job) const;
  void backward(Pass& pass, const Job& job);
  template <typename Body>
  void eachWindow(const std::vector<int32_t>& windows, const Job& job, const Body& body) const;

  std::mutex mutex_;
  std::shared_ptr<const Model> teacher_;
  RecoveryOptions options_;
  TrainableFactors factors_;
  RopeTable rope_;
  std::vector<int64_t> starts_;
  SpillStore taught_;  // [windows]: [tokens, hidden] after the final norm
  Recycled<LayerActivations> recomputed_;
  std::vector<std::vector<LayerActivations>>
      activations_;                        // [layers][windows of a batch]; empty where not kept
  std::vector<LayerGradients> gradients_;  // [windows of a batch]
  std::vector<float> kept_;
};

}  // namespace flrc
