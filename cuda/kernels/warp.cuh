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

// Sums of N values at once, N a power of 2, over the lanes whose numbers differ in the bits from kMask down to
// kLast. At each step a lane keeps half of the values and gives the other half away, as long as there are two;
// so it ends with few sums, from value (lane / kLast) % (2 kMask / kLast) * N / (2 kMask / kLast) on. Each
// sum's bits are those that N sums one after another by warpSum's steps have.
template <int kMask, int kLast, int N>
FLRC_DEVICE void foldWarp(float* values) {
  if constexpr (kMask >= kLast) {
    if constexpr (N > 1) {
      const bool upper = (laneIndex() & kMask) != 0;
      FLRC_UNROLL
      for (int i = 0; i < N / 2; ++i) {
        const float give = upper ? values[i] : values[i + N / 2], keep = upper ? values[i + N / 2] : values[i];
        values[i] = keep + shuffleXor(give, kMask);
      }
      foldWarp<kMask / 2, kLast, N / 2>(values);
    } else {
      values[0] += shuffleXor(values[0], kMask);
      foldWarp<kMask / 2, kLast, 1>(values);
    }
  }
}

// Everything that any block of the launch did before is seen by every block after. All blocks must be running
// at once. `counter` is 0 before its first launch; every barrier adds 2^31 to it in all.
FLRC_DEVICE void gridBarrier(Global<uint32_t> counter) {
  syncBlock();
  if (threadIndex() == 0) {
    const uint32_t step = blockX() == 0 ? 0x80000000u - static_cast<uint32_t>(gridX() - 1) : 1u;
    waitForFlip(counter, atomicAddOrdered(counter, step));
  }
  syncBlock();
}

}  // namespace flrc::gpu
