#pragma once

#include "kernels/device.cuh"

namespace flrc::gpu {

// The same in every lane: a + b and b + a are the same bits.
template <typename T>
FLRC_DEVICE T warpSum(T value) {
  FLRC_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) value += shuffleXor(value, mask);
  return value;
}

// What the first thread of any of gridX() blocks knew before is seen by every thread of each after. They must
// be running at once. `counter` is 0 before its first launch; every barrier adds 2^31 to it in all.
FLRC_DEVICE void firstsBarrier(Global<uint32_t> counter) {
  if (threadIndex() == 0) {
    const uint32_t step = blockX() == 0 ? 0x80000000u - static_cast<uint32_t>(gridX() - 1) : 1u;
    waitForFlip(counter, atomicAddOrdered(counter, step));
  }
  syncBlock();
}

// The same for what any of their threads knew.
FLRC_DEVICE void gridBarrier(Global<uint32_t> counter) {
  syncBlock();
  firstsBarrier(counter);
}

}  // namespace flrc::gpu
