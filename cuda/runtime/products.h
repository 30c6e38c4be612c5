#pragma once

#include <mutex>
#include <vector>

#include "runtime/split_rows.h"

namespace flrc {

// The contract's handle: weights on the device, and products with them.
struct DeviceProducts {
  DeviceProducts(const DeviceModel& model, const BackendMatrix* of, int64_t count);

  // As the table's multiply.
  void multiply(int64_t index, bool back, const float* x, int64_t tokens, float* y,
                const BackendCancel& cancel);

 private:
  struct One {
    BackendMatrix of;
    gpu::SplitRows rows, columns;  // W, and W^T
    bool loaded[2];                // each when it is first needed
  };

  std::vector<One> ones_;
  int64_t tokens_;    // at a time
  std::mutex mutex_;  // of all below, and of what is loaded
  gpu::SplitRows x_{gpu::SplitRows::Kind::halves};
  gpu::Buffer<float> y_;
};

}  // namespace flrc
