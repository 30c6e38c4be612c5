#pragma once

#include <vector>

#include "kernels/decode.h"
#include "runtime/linears_plan.h"
#include "runtime/model.h"
#include "runtime/rotations.h"

namespace flrc::gpu {

// Working memory of the widest launch of a model's decode steps.
Widths widest(const DeviceModel& model);

// The way of tokens through the layers, as launches into the model's queue, and the activations for up to
// `columns` of them. Decoding and prefill differ in how products and attention are made.
class Steps {
 public:
  Steps(DeviceModel& model, int64_t columns);
  virtual ~Steps() = default;
  Steps(const Steps&) = delete;
  Steps& operator=(const Steps&) = delete;

  // Room for sequences of so many positions.
  virtual void reserve(int64_t positions);
  // Which tokens come next, at which places of their sequences, whose caches have room for them.
  void describe(const int32_t* tokens, const BackendRow* rows, int64_t count);
  // From tokens to hidden states, which stay in x_, and their final norm.
  void enqueue(int64_t level, int64_t columns);

  int64_t columns() const { return columns_; }
  const Buffer<float>& states() const { return x_; }
  const Buffer<float>& normed() const { return normed_; }
  uint64_t bytes() const;

 protected:
  // The tokens' rows of the embedding, which everything else waits for.
  void embed(int64_t columns);
  virtual void multiply(const std::vector<PlannedLinear>& linears, Global<const float> x, int64_t columns);
  // From queries, keys and values before their rotation, which go to the cache, to attended_.
  virtual void attend(int64_t layer, const RotateParams& heads, int64_t columns) = 0;
  // Normalises x_, to which `add`, scaled as the model says, is added before.
  void norm(Global<const float> add, const Buffer<float>& weight, int64_t columns, bool dependent);
  void launch(LinearsParams params, Dtype dtype, Global<const float> x, int64_t columns);

  DeviceModel& model;
  LinearsLaunch how;
  Buffer<float> x_, normed_, q_, k_, v_, attended_, gate_, up_, out_;
  Buffer<CacheRow> rows_;
  Rotations rotations_;                 // of as many positions as there is room for
  DeviceSequence* sequence_ = nullptr;  // of the first row described, and its place
  int64_t position_ = 0;

 private:
  void layer(int64_t index, int64_t level, int64_t columns);
  // What a block puts out, where the model has a norm of it.
  void normOutput(const Buffer<float>& weight, int64_t columns);

  int64_t columns_;
  HostBuffer<CacheRow> staged_;
  Buffer<uint64_t> t_, u_;   // of up to kBackendRows columns
  Buffer<uint32_t> epochs_;  // of the launches that share them
  int64_t positions_ = 0;
};

}  // namespace flrc::gpu
