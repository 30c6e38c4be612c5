#pragma once

#include <vector>

#include "kernels/step.h"
#include "runtime/linears_plan.h"
#include "runtime/model.h"
#include "runtime/rotations.h"

namespace flrc::gpu {

// Activations of whole steps, all of them tagged: of one token, for every layer in turn.
struct StepBuffers {
  // For sequences of so many positions.
  StepBuffers(const DeviceModel& model, int64_t positions);
  uint64_t bytes() const;

  int chunks;  // of the positions
  Buffer<uint64_t> q, k, v, attended, out, gated, t, sums, scales;
  Buffer<uint32_t> epochs;
};

// What a whole step reads beside weights and buffers, and where its results go.
struct StepPlaces {
  Global<const CacheRow> rows;
  Global<const float> x;  // [hidden]
  Rotations::View turns;
  Global<float> logits;  // [vocab]
};

// The jobs of a whole step at one level (kernels/step.h), on the device.
class StepProgram {
 public:
  // Whether the model's steps can be made that way on this chip, but for fits().
  static bool serves(const DeviceModel& model);

  StepProgram(const DeviceModel& model, int64_t level, const StepBuffers& buffers, const StepPlaces& places);
  // Whether a block's shared memory has room for all of it, and no block of a model that is small for the chip
  // could be left behind.
  bool fits() const;
  void enqueue(Stream stream) const;
  uint64_t bytes() const;

 private:
  class Writer;

  // Whether its layers compute what jobs do.
  static bool isPlain(const DeviceModel& model);

  StepParams params_{};
  StepLaunch how_{};
  int inputWords_ = 0;  // of the widest input
  bool together_ = false;
  Buffer<StepJob> jobs_;
  Buffer<StepLines> lines_;
  Buffer<int32_t> firstJobs_, firstLines_;
};

}  // namespace flrc::gpu
