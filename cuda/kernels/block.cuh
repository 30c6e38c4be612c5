#pragma once

#include "kernels/warp.cuh"

namespace flrc::gpu {

// Combined over a block's threads in a fixed order, in all of them. `scratch` holds a value a warp; a barrier
// before it is used again is the caller's, and two of them used in turn need none.
template <typename T, typename Combine>
FLRC_DEVICE T blockReduce(T value, Shared<T> scratch, const Combine& combine) {
  FLRC_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) value = combine(value, shuffleXor(value, mask));
  if (laneIndex() == 0) scratch[warpIndex()] = value;
  syncBlock();
  T all = scratch[0];
  for (int w = 1; w < blockThreads() / 32; ++w) all = combine(all, static_cast<T>(scratch[w]));
  return all;
}

template <typename T>
FLRC_DEVICE T blockSum(T value, Shared<T> scratch) {
  return blockReduce(value, scratch, [](T a, T b) { return a + b; });
}

// Whether this block is the last of `expected` to come here, in all its threads; it sees then what the others
// did before. The counter is 0 before the first comes and after the last.
FLRC_DEVICE bool isLastBlock(Global<uint32_t> counter, uint32_t expected, Shared<uint32_t> scratch) {
  syncBlock();
  if (threadIndex() == 0) {
    const bool last = atomicAddOrdered(counter, 1u) + 1 == expected;
    if (last) counter[0] = 0;
    scratch[0] = last;
  }
  syncBlock();
  return scratch[0] != 0;
}

}  // namespace flrc::gpu
