#pragma once

// What kernels are written against. Under nvcc it is CUDA C++ and PTX (device_cuda.cuh); under g++ an emulator
// that runs the same source on the CPU and checks what it does (emulator/device.h, whose comments say what each
// function does). Kernels use nothing else of the device.
#ifdef __CUDACC__
#include "kernels/device_cuda.cuh"
#include "kernels/warpgroup_cuda.cuh"
#else
#include "emulator/device.h"
#include "emulator/warpgroup.h"
#endif
