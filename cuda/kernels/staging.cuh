#pragma once

#include "kernels/device.cuh"

namespace flrc::gpu {

// Fetching of weights to shared memory ahead of their use: by bulk copies, which one thread starts and an
// mbarrier ends, or by 16-byte copies of all threads (before sm_90). Used by all threads of a block alike:
// expect, copy as often as one likes, close; later wait, and a block's barrier behind that, after which all of
// it is there for everybody.
template <bool kBulk>
class Staging {
 public:
  // `phases` for `count` stagings, each used once. A barrier before that is the caller's.
  static FLRC_DEVICE void init(Shared<uint64_t> phases, int count) {
    if constexpr (kBulk) {
      if (threadIndex() == 0) {
        for (int i = 0; i < count; ++i) phaseInit(phases + i, 1);
      }
    }
  }

  FLRC_DEVICE Staging(Shared<uint64_t> phases, int index) : phase_(phases + index) {}

  // Bytes of all copies to come.
  FLRC_DEVICE void expect(uint32_t bytes) {
    if constexpr (kBulk) {
      if (threadIndex() == 0) phaseExpect(phase_, bytes);
    }
  }

  // A multiple of 16 bytes.
  FLRC_DEVICE void copy(Shared<uint8_t> to, Global<const uint8_t> from, int bytes) {
    if constexpr (kBulk) {
      if (threadIndex() == 0 && bytes > 0) bulkCopy(to, from, static_cast<uint32_t>(bytes), phase_);
    } else {
      for (int at = 16 * threadIndex(); at < bytes; at += 16 * blockThreads()) copyAsync(to + at, from + at);
    }
  }

  FLRC_DEVICE void close() {
    if constexpr (!kBulk) commitCopies();
  }

  // kLater: stagings closed after this one that may still be on their way.
  template <int kLater>
  FLRC_DEVICE void wait() {
    if constexpr (kBulk) {
      phaseWait(phase_, 0);
    } else {
      waitCopies<kLater>();
    }
  }

 private:
  Shared<uint64_t> phase_;
};

}  // namespace flrc::gpu
