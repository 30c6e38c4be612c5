#pragma once

#include "kernels/block.cuh"
#include "kernels/sample.h"

namespace flrc::gpu::logits {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kOwn = kLogitsChunk / kThreads;  // neighbouring logits of a thread

// A thread's logits of a chunk.
struct Own {
  float logit[kOwn];
  int first, count;  // token ids; a count below 1 is none
};

FLRC_DEVICE Own ownOf(Global<const float> logits, int vocab, int chunk) {
  Own own;
  own.first = chunk * kLogitsChunk + threadIndex() * kOwn;
  const int left = vocab - own.first;
  // Not clamped at 0 as well: ptxas 13.0 then takes a count of 0 for a full one, in the comparison behind it.
  own.count = left < kOwn ? left : kOwn;
  if (left >= kOwn && vocab % 4 == 0) {
    FLRC_UNROLL
    for (int i = 0; i < kOwn; i += 4) {
      const Float4 quad = pointerCast<const Float4>(logits)[(own.first + i) / 4];
      own.logit[i] = quad.x;
      own.logit[i + 1] = quad.y;
      own.logit[i + 2] = quad.z;
      own.logit[i + 3] = quad.w;
    }
    return own;
  }
  FLRC_UNROLL
  for (int i = 0; i < kOwn; ++i) own.logit[i] = i < own.count ? logits[own.first + i] : -HUGE_VALF;
  return own;
}

// Floats in their order as whole numbers.
FLRC_DEVICE uint32_t keyOf(float value) {
  const uint32_t bits = floatToBits(value);
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}
FLRC_DEVICE float floatOf(uint32_t key) { return bitsToFloat(key >> 31 != 0 ? key & 0x7fffffffu : ~key); }

// Blocks of each of some rows.
inline LaunchShape shapeOf(int blocks, int rows, size_t sharedBytes) {
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>(blocks);
  shape.gridY = static_cast<unsigned>(rows);
  shape.threads = kThreads;
  shape.sharedBytes = sharedBytes;
  return shape;
}

}  // namespace flrc::gpu::logits
