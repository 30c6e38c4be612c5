#pragma once

// The device layer of kernels/device.cuh on the emulator. A thing that a GPU does for a whole warp takes all 32
// lanes.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "emulator/machine.h"
#include "emulator/pointer.h"
#include "emulator/products.h"
#include "kernels/shape.h"

#define FLRC_KERNEL
#define FLRC_DEVICE inline
#define FLRC_UNROLL
#define FLRC_UNROLL_BY(count)
#define FLRC_KERNEL_BOUNDS(threads, blocks)
// A kernel's only parameter, a plain struct.
#define FLRC_PARAMS(Params) const Params

namespace flrc::gpu {

template <typename T>
using Global = emulator::Pointer<T>;
template <typename T>
using Shared = emulator::Pointer<T>;
using emulator::pointerCast;

inline emulator::Machine& machine() { return emulator::Machine::current(); }
inline const emulator::Thread& self() { return emulator::Machine::thread(); }

inline int threadIndex() { return static_cast<int>(self().index); }
inline int blockThreads() { return static_cast<int>(self().block->threads.size()); }
inline int laneIndex() { return threadIndex() % emulator::kWarpThreads; }
inline int warpIndex() { return threadIndex() / emulator::kWarpThreads; }
inline int gridX() { return static_cast<int>(self().block->launch->shape.gridX); }
inline int gridY() { return static_cast<int>(self().block->launch->shape.gridY); }
inline int blockX() { return static_cast<int>(self().block->index) % gridX(); }
inline int blockY() { return static_cast<int>(self().block->index) / gridX() % gridY(); }
inline int blockZ() { return static_cast<int>(self().block->index) / gridX() / gridY(); }

// The block's dynamic shared memory from byte `offset` on.
template <typename T>
Shared<T> sharedMemory(size_t offset) {
  emulator::Memory* memory = self().block->shared.get();
  return {memory, memory->begin() + offset};
}

inline void syncBlock() { machine().syncBlock(); }
inline void syncWarp() { machine().syncWarp(); }

// Clusters: blocks that see each other's shared memory.
inline int clusterRank() { return static_cast<int>(self().block->index % self().block->cluster->size()); }
inline int clusterBlocks() { return static_cast<int>(self().block->cluster->size()); }
inline void syncCluster() { machine().syncCluster(); }
// All have come here, and what they have read they have; what they wrote is in no order.
inline void meetCluster() { machine().syncCluster(); }
template <typename T>
Shared<T> peerShared(Shared<T> mine, int rank) {
  emulator::Memory* peer = machine().peer(rank).shared.get();
  return {peer, peer->begin() + (mine.at() - mine.memory()->begin())};
}

template <typename T>
T shuffle(T value, int lane) {
  struct Slot {
    T value, result;
    int from;
  } slot{value, value, lane};
  machine().warpOperation(
      [](void* const* lanes) {
        for (int i = 0; i < emulator::kWarpThreads; ++i) {
          auto* to = static_cast<Slot*>(lanes[i]);
          to->result = static_cast<Slot*>(lanes[to->from & (emulator::kWarpThreads - 1)])->value;
        }
      },
      &slot);
  return slot.result;
}
template <typename T>
T shuffleXor(T value, int mask) {
  return shuffle(value, laneIndex() ^ mask);
}

inline float fusedMultiplyAdd(float a, float b, float c) { return std::fma(a, b, c); }
inline double fusedMultiplyAdd(double a, double b, double c) { return std::fma(a, b, c); }
inline double inverseRoot(double value) { return 1 / std::sqrt(value); }
inline float bitsToFloat(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline uint32_t floatToBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// To bf16 bits, to nearest even; the first argument to the low half.
inline uint32_t roundHalves(float low, float high) {
  const auto round = [](float value) {
    const uint32_t bits = floatToBits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  };
  return round(low) | round(high) << 16;
}
// Of two pairs of bf16.
inline uint32_t subtractHalves(uint32_t a, uint32_t b) {
  return roundHalves(bitsToFloat(a << 16) - bitsToFloat(b << 16),
                     bitsToFloat(a & 0xffff0000u) - bitsToFloat(b & 0xffff0000u));
}

// A read of weights, which no other read comes back to.
template <typename T>
auto streamed(Global<const T> from) {
  return from.read();
}

// 16 bytes of which the first `bytes` are read and the others are 0; there after commitCopies and waitCopies of
// the thread that copied, and for others after a barrier behind that.
inline void copyAsync(Shared<uint8_t> to, Global<const uint8_t> from, int bytes = 16) {
  if (bytes > 0) pointerCast<const Word4>(from).memory()->access(from.at(), 1, emulator::Memory::Access::read);
  if (from.at() != nullptr && reinterpret_cast<uintptr_t>(from.at()) % 16 != 0) {
    throw emulator::Fault("an asynchronous copy from a misaligned place");
  }
  if (bytes > 1) from.memory()->access(from.at() + bytes - 1, 1, emulator::Memory::Access::read);
  to.memory()->startCopy(to.at(), 16);
  emulator::Machine::thread().groups.back().push_back(
      {from.memory(), to.memory(), from.at(), to.at(), static_cast<size_t>(bytes), 16});
}
// 4, 8 or 16 bytes.
template <int kBytes>
void copyAsync(Shared<uint8_t> to, Global<const uint8_t> from) {
  if (reinterpret_cast<uintptr_t>(from.at()) % kBytes != 0 ||
      reinterpret_cast<uintptr_t>(to.at()) % kBytes != 0) {
    throw emulator::Fault("an asynchronous copy from or to a misaligned place");
  }
  from.memory()->access(from.at(), 1, emulator::Memory::Access::read);
  from.memory()->access(from.at() + kBytes - 1, 1, emulator::Memory::Access::read);
  to.memory()->startCopy(to.at(), kBytes);
  emulator::Machine::thread().groups.back().push_back(
      {from.memory(), to.memory(), from.at(), to.at(), kBytes, kBytes});
}
// The same for one value, which is 0 if it is not to be read.
inline void copyValueAsync(Shared<double> to, Global<const double> from, bool read) {
  if (read) from.memory()->access(from.at(), sizeof(double), emulator::Memory::Access::read);
  to.memory()->startCopy(to.at(), sizeof(double));
  emulator::Machine::thread().groups.back().push_back(
      {from.memory(), to.memory(), from.at(), to.at(), read ? sizeof(double) : 0, sizeof(double)});
}
inline void commitCopies() { machine().commitCopies(); }
template <int kLeft>
void waitCopies() {
  machine().waitCopies(kLeft);
}

// mbarriers and the bulk copies that arrive at them; a phase is over when all arrivals and all bytes are there.
inline void phaseInit(Shared<uint64_t> barrier, int arrivals) {
  barrier.write(0);
  machine().initPhase(barrier.at(), static_cast<uint32_t>(arrivals));
}
inline void phaseArrive(Shared<uint64_t> barrier) {
  barrier.read();
  machine().arrive(machine().phase(barrier.at()), 1);
}
// At the barrier in the same place of a block of this cluster. It orders nothing but what asynchronous copies
// and products have done with shared memory.
inline void phaseArriveAt(Shared<uint64_t> barrier, int rank) {
  peerShared(barrier, rank).read();
  machine().arrive(machine().phase(peerShared(barrier, rank).at(), rank), 1);
}
inline void phaseExpect(Shared<uint64_t> barrier, uint32_t bytes) {
  barrier.read();
  emulator::PhaseBarrier& phase = machine().phase(barrier.at());
  phase.bytes += bytes;
  machine().arrive(phase, 1);
}
inline void phaseWait(Shared<uint64_t> barrier, uint32_t parity) {
  barrier.read();
  machine().wait(machine().phase(barrier.at()), parity);
}
inline void bulkCopy(Shared<uint8_t> to, Global<const uint8_t> from, uint32_t bytes, Shared<uint64_t> barrier) {
  if (bytes % 16 != 0 || reinterpret_cast<uintptr_t>(from.at()) % 16 != 0) {
    throw emulator::Fault("a bulk copy of or from what is no multiple of 16 bytes");
  }
  if (bytes == 0) return;
  from.memory()->access(from.at(), 1, emulator::Memory::Access::read);
  from.memory()->access(from.at() + bytes - 1, 1, emulator::Memory::Access::read);
  to.memory()->startCopy(to.at(), bytes);
  machine().bulkCopy({from.memory(), to.memory(), from.at(), to.at(), bytes, bytes},
                     machine().phase(barrier.at()));
}

// The same of what no other copy comes back to, so that caches need not keep it.
inline void bulkCopyOnce(Shared<uint8_t> to, Global<const uint8_t> from, uint32_t bytes,
                         Shared<uint64_t> barrier) {
  bulkCopy(to, from, bytes, barrier);
}

// Has the L2 cache fetch the kFetchBytes that `from` is one of; changes nothing that a kernel can see.
inline constexpr int kFetchBytes = 128;
inline void fetchToL2(Global<const uint8_t> from) {
  from.memory()->access(from.at(), 1, emulator::Memory::Access::read);
}

// Programmatic dependent launch: what comes before the wait may run while the launch ahead still does.
inline void dependentWait() { machine().dependentWait(); }
inline void dependentTrigger() { machine().dependentTrigger(); }

// Atomics. Those that release or acquire order the memory accesses around them as well.
template <typename T>
T atomicAdd(emulator::Pointer<T> to, T value) {
  uint8_t* at = to.access(emulator::Memory::Access::atomic);
  T old;
  std::memcpy(&old, at, sizeof old);
  const T sum = old + value;
  std::memcpy(at, &sum, sizeof sum);
  machine().changed(emulator::Change::value);
  return old;
}
// A read that no cache answers from before.
inline uint32_t readFresh(Global<const uint32_t> from) { return from.read(); }
// A value that says itself when it is there: whoever waits for it sees its tag, and nothing else is put in
// order.
inline void sendTagged(Global<uint64_t> to, float value, uint32_t tag) {
  const uint64_t word = static_cast<uint64_t>(tag) << 32 | floatToBits(value);
  std::memcpy(to.access(emulator::Memory::Access::atomic), &word, sizeof word);
  machine().changed(emulator::Change::value);
}
// The first `count` of N neighbouring values, an even number that lies at a multiple of 16 bytes, and zeros for
// the others, which need not come but can be looked at as well.
template <int N>
void receiveFirst(Global<const uint64_t> from, int count, uint32_t tag, float (&out)[N]) {
  if (N % 2 == 0 && reinterpret_cast<uintptr_t>(from.at()) % 16 != 0) {
    throw emulator::Fault("tagged values from a misaligned place");
  }
  for (int i = 0; i < N; ++i) {
    uint64_t word = 0;
    if (i < count) {
      machine().waitUntil("a tagged value", emulator::Change::value, [at = (from + i).at(), tag, &word] {
        std::memcpy(&word, at, sizeof word);
        return word >> 32 == tag;
      });
    }
    (from + i).access(emulator::Memory::Access::atomic);
    out[i] = bitsToFloat(static_cast<uint32_t>(word));
  }
}
template <int N>
void receiveTagged(Global<const uint64_t> from, uint32_t tag, float (&out)[N]) {
  receiveFirst<N>(from, N, tag, out);
}
// kParts times kEach neighbouring values, `stride` apart.
template <int kParts, int kEach>
void receiveTagged(Global<const uint64_t> from, int64_t stride, uint32_t tag, float (&out)[kParts][kEach]) {
  for (int p = 0; p < kParts; ++p) receiveTagged<kEach>(from + p * stride, tag, out[p]);
}
inline uint32_t atomicAddOrdered(Global<uint32_t> to, uint32_t value) {
  machine().acquire(to.at());
  const uint32_t old = atomicAdd(to, value);
  machine().release(to.at());
  return old;
}
// Waits until the counter's highest bit differs from that of `old`.
inline void waitForFlip(Global<uint32_t> counter, uint32_t old) {
  machine().waitUntil("a counter", emulator::Change::value, [counter, old] {
    uint32_t now;
    std::memcpy(&now, counter.at(), sizeof now);
    return (now ^ old) >> 31 != 0;
  });
  counter.access(emulator::Memory::Access::atomic);
  machine().acquire(counter.at());
}

// Four 8 x 8 matrices of 16-bit values: lane 8 i + r gives row r of matrix i (16 bytes); each lane gets, of
// every matrix, two neighbours of row lane / 4 (or, transposed, of column lane / 4).
template <bool kTransposed>
void loadMatrices(uint32_t (&out)[4], Shared<const uint16_t> row) {
  struct Slot {
    uint16_t row[8];
    uint32_t out[4];
  } slot;
  std::memcpy(slot.row, pointerCast<const Word4>(row).access(emulator::Memory::Access::read), 16);
  machine().warpOperation(
      [](void* const* lanes) {
        const auto value = [&](int matrix, int r, int c) -> uint32_t {
          return static_cast<Slot*>(lanes[8 * matrix + r])->row[c];
        };
        for (int lane = 0; lane < emulator::kWarpThreads; ++lane) {
          const int line = lane / 4, first = lane % 4 * 2;
          for (int m = 0; m < 4; ++m) {
            const uint32_t low = kTransposed ? value(m, first, line) : value(m, line, first);
            const uint32_t high = kTransposed ? value(m, first + 1, line) : value(m, line, first + 1);
            static_cast<Slot*>(lanes[lane])->out[m] = low | high << 16;
          }
        }
      },
      &slot);
  std::memcpy(out, slot.out, sizeof out);
}

// Adds the product to what the lanes have of the sums [16, 8], in PTX's fragments.
template <typename Slot, typename T, int kDepth>
void addToFragments(void* const* lanes, const T (&left)[16][kDepth], const T (&right)[kDepth][8]) {
  T sums[16][8];
  const auto eachSum = [&](const auto& each) {
    for (int lane = 0; lane < emulator::kWarpThreads; ++lane) {
      for (int i = 0; i < 4; ++i) {
        each(static_cast<Slot*>(lanes[lane])->d[i], sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
      }
    }
  };
  eachSum([](T from, T& to) { to = from; });
  emulator::addProduct(&sums[0][0], &left[0][0], &right[0][0], 16, 8, kDepth);
  eachSum([](T& to, T from) { to = from; });
}

// d [16, 8] += a [16, 16] b [16, 8] on tensor cores (mma.m16n8k16): bf16 in, f32 sums, in PTX's fragments.
inline void multiplyFragments(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Slot {
    const uint32_t *a, *b;
    float* d;
  } slot{a, b, d};
  machine().warpOperation(
      [](void* const* lanes) {
        const auto half = [](uint32_t pair, int which) {
          return bitsToFloat(which ? pair & 0xffff0000u : pair << 16);
        };
        float left[16][16], right[16][8];
        for (int lane = 0; lane < emulator::kWarpThreads; ++lane) {
          const auto* at = static_cast<Slot*>(lanes[lane]);
          const int group = lane / 4, pair = lane % 4 * 2;
          for (int i = 0; i < 8; ++i) {
            left[group + i / 2 % 2 * 8][pair + i / 4 * 8 + i % 2] = half(at->a[i / 2], i % 2);
          }
          for (int i = 0; i < 4; ++i) right[pair + i / 2 * 8 + i % 2][group] = half(at->b[i / 2], i % 2);
        }
        addToFragments<Slot>(lanes, left, right);
      },
      &slot);
}

// The same in fp64, d [16, 8] += a [16, 8] b [8, 8] (mma.m16n8k8).
inline void multiplyFragments(double (&d)[4], const double (&a)[4], const double (&b)[2]) {
  struct Slot {
    const double *a, *b;
    double* d;
  } slot{a, b, d};
  machine().warpOperation(
      [](void* const* lanes) {
        double left[16][8], right[8][8];
        for (int lane = 0; lane < emulator::kWarpThreads; ++lane) {
          const auto* at = static_cast<Slot*>(lanes[lane]);
          const int group = lane / 4, pair = lane % 4;
          for (int i = 0; i < 4; ++i) left[group + i % 2 * 8][pair + i / 2 * 4] = at->a[i];
          for (int i = 0; i < 2; ++i) right[pair + 4 * i][group] = at->b[i];
        }
        addToFragments<Slot>(lanes, left, right);
      },
      &slot);
}

using Stream = emulator::Machine&;

// What a block may have of shared memory: 227 KB on sm_90.
inline size_t mostSharedBytes() { return 232448; }

template <typename Kernel>
unsigned mostClusterBlocks(Stream stream, const LaunchShape&, Kernel) {
  return stream.mostCluster;
}

template <typename Kernel, typename Params>
void launch(Stream stream, const LaunchShape& shape, Kernel kernel, const Params& params) {
  // Not captured by value: GCC 12 clears padding inside a large capture under -ftrivial-auto-var-init, and not
  // padding only.
  auto copy = std::make_shared<const Params>(params);
  stream.launch(shape, [kernel, copy] { kernel(*copy); });
}

}  // namespace flrc::gpu
