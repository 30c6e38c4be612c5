#pragma once

#include <vector>

#include "runtime/decode_steps.h"

namespace flrc {

// Tokens through a model: a few of any sequences, or a piece of a prompt.
struct DevicePass {
 public:
  explicit DevicePass(DeviceModel& of) : model(of), decode_(of) {}

  void run(const int32_t* tokens, const BackendRow* rows, int64_t count, int64_t level,
           const BackendCancel& cancel);
  // Of rows of the last run, [count, vocab].
  void logits(const int64_t* rows, int64_t count, float* out);
  void keepLogits(const int64_t* rows, int64_t count);
  void likeliest(const int64_t* rows, int64_t count, BackendSampled* out);
  uint64_t bytes() const { return decode_.bytes() + states_.bytes(); }

  DeviceModel& model;

 private:
  // Has the logits of these rows of the last run, and says in which rows of decode_.logits() they are.
  std::vector<int64_t> place(const int64_t* rows, int64_t count);

  gpu::DecodeSteps decode_;
  gpu::Buffer<gpu::Likeliest> likeliest_;
  gpu::HostBuffer<gpu::SampledRow> sampled_;
  gpu::Buffer<float> states_;               // hidden states of the last prompt's tokens
  std::vector<DeviceSequence*> sequences_;  // of the last run's rows
};

}  // namespace flrc
