#pragma once

#include <mutex>

#include "runtime/weight_halves.h"

namespace flrc {

// The contract's handle: the final norm and the head, of some positions at once.
struct DeviceHeadPass {
  explicit DeviceHeadPass(DeviceModel& model);

  // As the table's headGradient; the loss.
  double gradient(const float* x, const int32_t* ids, int64_t tokens, const BackendLabels& labels, float* dx,
                  const BackendCancel& cancel);

 private:
  void gradient(gpu::Pieces& pieces, const int32_t* ids, int64_t tokens, int64_t first, int64_t count,
                const BackendLabels& labels);
  // body(first, rows, halves) for all rows of the head.
  template <typename Body>
  void forBands(gpu::Pieces& pieces, const Body& body);

  DeviceModel& model_;
  int64_t band_;      // rows of the head at a time
  std::mutex mutex_;  // of all below
  gpu::WeightHalves weights_;
  gpu::RoundedRows rounded_, roundedLogits_;
  gpu::Buffer<float> x_, normed_, logits_, dx_;
  gpu::HostBuffer<int32_t> next_;
  gpu::Buffer<double> losses_, total_;
};

}  // namespace flrc
