#pragma once

#include "kernels/linears.h"

namespace flrc::gpu {

// What launches go by.
struct DeviceLimits {
  int multiprocessors = 0;
  int sharedBytes = 0;  // that one block can have
  bool hopper = false;  // sm_90 and newer: bulk copies, dependent launches
  int warpgroups = 0;   // multiprocessors that have warpgroup products: sm_90 alone
};

// How products with weights are launched: a block on every multiprocessor, and in it as many weights fetched
// ahead as fit beside the inputs, of which launchLinears takes up to kInputBytes.
inline constexpr int kInputBytes = 88 * 1024;
inline LinearsLaunch linearsLaunch(const DeviceLimits& limits) {
  LinearsLaunch how;
  how.blocks = limits.multiprocessors;
  how.stagedBytes = limits.sharedBytes > kInputBytes ? (limits.sharedBytes - kInputBytes) / 32 * 32 : 0;
  how.bulk = limits.hopper;
  how.dependent = limits.hopper;
  return how;
}

DeviceLimits currentDevice();

}  // namespace flrc::gpu
