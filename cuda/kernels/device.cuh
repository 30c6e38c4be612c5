#pragma once

// What kernels are written against. Under nvcc it is CUDA C++ and PTX (device_cuda.cuh); under g++ an emulator
// that runs the same source on the CPU and checks what it does (emulator/device.h, whose comments say what each
// function does). Kernels use nothing else of the device.

#include <cstdint>

namespace flrc::gpu {

struct alignas(8) Float2 {
  float x, y;
};
struct alignas(16) Float4 {
  float x, y, z, w;
};
struct alignas(8) Word2 {
  uint32_t x, y;
};
struct alignas(16) Word4 {
  uint32_t x, y, z, w;
};

}  // namespace flrc::gpu

#ifdef __CUDACC__
#include "kernels/device_cuda.cuh"
#include "kernels/warpgroup_cuda.cuh"
#else
#include "emulator/device.h"
#include "emulator/warpgroup.h"
#endif
