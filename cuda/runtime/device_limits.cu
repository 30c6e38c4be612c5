#include "runtime/device_limits.h"

namespace flrc::gpu {

#ifdef __CUDACC__

namespace {

// Of no use but to ask what code of this plugin the driver has taken.
__global__ void emptyKernel() {}

// What is compiled for an older chip leaves out what Hopper brought, on newer chips as well.
bool isCompiledForHopper() {
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, emptyKernel));
  return attributes.ptxVersion >= 90;
}

}  // namespace

DeviceLimits currentDevice() {
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device));
  DeviceLimits limits;
  check(cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device));
  check(cudaDeviceGetAttribute(&limits.sharedBytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  limits.hopper = major >= 9 && isCompiledForHopper();
  limits.warpgroups = major == 9 && minor == 0 ? limits.multiprocessors : 0;
  return limits;
}

#else

// The emulator has all that a chip can have; few blocks, since it runs them one thread at a time.
DeviceLimits currentDevice() { return {2, 227 * 1024, true, 2}; }

#endif

}  // namespace flrc::gpu
