#include "runtime/device_limits.h"

namespace flrc::gpu {

#ifdef __CUDACC__

namespace {

// Products by warpgroups are in code for 9.0 with its own features alone; in all other code they trap.
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr int kProbeThreads = 32;
#else
constexpr int kProbeThreads = 64;
#endif

// Of no use but to ask what code of this plugin the driver has taken, which its bounds tell.
__global__ void __launch_bounds__(kProbeThreads) probeKernel() {}

struct Compiled {
  bool hopper, warpgroups;
};

// What is compiled for an older chip leaves out what Hopper brought, on newer chips as well.
Compiled whatIsCompiled() {
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, probeKernel));
  return {attributes.ptxVersion >= 90, attributes.maxThreadsPerBlock != 32};
}

}  // namespace

DeviceLimits currentDevice() {
  int device = 0, major = 0, minor = 0, mps = 0;
  check(cudaGetDevice(&device));
  DeviceLimits limits;
  check(cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device));
  check(cudaDeviceGetAttribute(&limits.sharedBytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  check(cudaDeviceGetAttribute(&mps, cudaDevAttrMpsEnabled, device));
  limits.shared = mps != 0;
  const Compiled compiled = whatIsCompiled();
  limits.hopper = major >= 9 && compiled.hopper;
  limits.warpgroups = major == 9 && minor == 0 && compiled.warpgroups ? limits.multiprocessors : 0;
  return limits;
}

#else

// The emulator has all that a chip can have; few blocks, since it runs them one thread at a time.
DeviceLimits currentDevice() { return {2, 227 * 1024, true, 2}; }

#endif

}  // namespace flrc::gpu
