#pragma once

#include "kernels/linears.h"

namespace flrc::gpu {

// What launches go by.
struct DeviceLimits {
  int multiprocessors = 0;
  int sharedBytes = 0;  // that one block can have
  bool hopper = false;  // sm_90 and newer: fetches ahead, dependent launches
  int warpgroups = 0;   // multiprocessors that have warpgroup products: sm_90 alone
  // Other processes' launches may run beside ours (MPS). Of blocks that wait for each other all must then be
  // launched together, for blocks of two processes could each keep the other's from starting.
  bool shared = false;

  bool dependent() const { return hopper && !shared; }
};

// How products with weights are launched: a block on every multiprocessor, which has so many bytes of its
// weights fetched ahead.
inline constexpr int kAheadBytes = 192 * 1024;
inline LinearsLaunch linearsLaunch(const DeviceLimits& limits) {
  LinearsLaunch how{};
  how.blocks = limits.multiprocessors;
  how.sharedBytes = limits.sharedBytes;
  how.bulk = limits.hopper;
  how.aheadBytes = limits.hopper ? kAheadBytes : 0;
  how.dependent = limits.dependent();
  return how;
}

DeviceLimits currentDevice();

}  // namespace flrc::gpu
