#pragma once

#include <new>

namespace flrc::gpu {

// The device's memory does not hold what CUDA takes for itself: kernels' code, graphs, what a launch needs.
struct DeviceFull : std::bad_alloc {
  const char* what() const noexcept override {
    return "the GPU has no memory left for what CUDA itself takes; close other programs, use a smaller dtype, "
           "or device cpu";
  }
};

}  // namespace flrc::gpu
