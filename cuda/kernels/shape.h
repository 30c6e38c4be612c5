#pragma once

#include <cstddef>

namespace flrc::gpu {

// Shared memory that a block of any chip can have: 8.6, 8.9 and 12.x have no more.
inline constexpr size_t kSharedOfAnyChip = 99 * 1024;

// How a kernel is launched.
struct LaunchShape {
  unsigned gridX = 1, gridY = 1, gridZ = 1;
  unsigned threads = 32;
  size_t sharedBytes = 0;    // dynamic
  bool fitted = false;       // sharedBytes go by what a block of this chip can have, not of any chip
  unsigned cluster = 1;      // blocks in a cluster, along x (sm_90 and newer)
  bool cooperative = false;  // all blocks run at once
  bool dependent = false;    // may start before the launch ahead of it is complete (sm_90 and newer)
};

// Boxes of bf16 values that tensor copies bring to shared memory and warpgroups multiply.
inline constexpr int kBoxWidth = 64;
inline constexpr int kBoxRows = 32;
inline constexpr int kBoxBytes = kBoxWidth * kBoxRows * 2;

}  // namespace flrc::gpu
