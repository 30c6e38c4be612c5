#pragma once

#include <vector>

#include "runtime/split_rows.h"

namespace flrc {

// The contract's handle: sums of x x^T on the device.
struct DeviceMoments {
  DeviceMoments(DeviceModel& model, const int64_t* widths, double* const* sums, int64_t count);

  void add(const float* const* x, int64_t tokens, const BackendCancel& cancel);
  // One sequence's rows of the sum at `index`, which are on the device.
  void add(gpu::Pieces& pieces, size_t index, const gpu::Halves& rows, int64_t tokens);
  void finish(const BackendCancel& cancel);

 private:
  struct Sum {
    int64_t width;
    double* host;
    gpu::Buffer<double> packed;
  };

  static void launch(gpu::Pieces& pieces, const Sum& sum, const gpu::Halves& rows, const gpu::Passage& passage);

  std::vector<Sum> sums_;
  gpu::SplitRows rows_;
  gpu::Buffer<float> staged_;
};

}  // namespace flrc
