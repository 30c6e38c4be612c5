#pragma once

// The device layer for warpgroups of four warps, which sm_90a alone has, on the emulator.

#include <limits>

#include "emulator/device.h"

namespace flrc::gpu {

// What a tensor map of bf16 values [planes][rows][width], rows `ld` apart, describes.
struct TensorMap {
  Global<const uint16_t> data;
  int64_t ld;
  int width, rows, planes;
};
inline TensorMap tensorMapOf(Global<const uint16_t> data, int64_t ld, int width, int rows, int planes) {
  return {data, ld, width, rows, planes};
}

// Starts fetching a box of it, zeros outside; kBoxBytes arrive at the barrier. `to` is a multiple of 1024 in
// shared memory, and what lies where there is known to multiplyBoxes alone. To the same place of every block of
// the cluster whose bit is in `blocks`, each copy arriving at that block's own barrier.
inline void multicastBox(Shared<uint8_t> to, const TensorMap& from, int column, int row, int plane,
                         Shared<uint64_t> barrier, uint32_t blocks) {
  if ((to.at() - to.memory()->begin()) % 1024 != 0) throw emulator::Fault("a box at no multiple of 1024 bytes");
  if (blocks == 0) throw emulator::Fault("a box to no block");
  const int left = from.width - column, columns = left < 0 ? 0 : left < kBoxWidth ? left : kBoxWidth;
  for (int i = 0; i < kBoxRows; ++i) {
    const bool inside = row + i < from.rows && columns > 0;
    const Global<const uint16_t> line =
        from.data + (inside ? (int64_t{plane} * from.rows + row + i) * from.ld + column : 0);
    const auto bytes = static_cast<size_t>(inside ? columns : 0) * sizeof(uint16_t);
    if (bytes > 0) {
      line.access(emulator::Memory::Access::read);
      (line + (columns - 1)).access(emulator::Memory::Access::read);
    }
    for (int rank = 0; blocks >> rank != 0; ++rank) {
      if ((blocks >> rank & 1) == 0) continue;
      const Shared<uint8_t> target = peerShared(to + i * kBoxWidth * 2, rank);
      target.memory()->startCopy(target.at(), kBoxWidth * 2);
      machine().bulkCopy({line.memory(), target.memory(), line.at(), target.at(), bytes, kBoxWidth * 2},
                         machine().phase(peerShared(barrier, rank).at(), rank));
    }
  }
}
// To this block alone.
inline void copyBox(Shared<uint8_t> to, const TensorMap& from, int column, int row, int plane,
                    Shared<uint64_t> barrier) {
  multicastBox(to, from, column, row, plane, barrier, 1u << clusterRank());
}

// sums [64, N] (+)= A^T B of a warpgroup, A one box and B N / 64 of them: over the rows of boxes. Lanes have of
// 16 rows a warp and of every 8 columns what multiplyFragments gives them. They are there after
// waitProducts<0>; with kLeft, all but the last kLeft multiplications are done with their boxes. (The emulator
// does them at once.)
template <int N>
void multiplyBoxes(float (&sums)[N / 2], Shared<const uint8_t> a, Shared<const uint8_t> b, bool add) {
  const int firstRow = warpIndex() % 4 * 16 + laneIndex() / 4;
  for (int i = 0; i < N / 2; ++i) {
    if (!add) sums[i] = 0;
  }
  const auto at = [](Shared<const uint8_t> box, int row) {
    return reinterpret_cast<const uint16_t*>((pointerCast<const Word4>(box + row * kBoxWidth * 2)).at());
  };
  // Every lane touches a share of what all of them read.
  for (int row = laneIndex(); row < kBoxRows; row += emulator::kWarpThreads) {
    for (int piece = 0; piece < kBoxWidth / 8; ++piece) {
      pointerCast<const Word4>(a + (row * kBoxWidth + piece * 8) * 2).access(emulator::Memory::Access::read);
      for (int box = 0; box < N / kBoxWidth; ++box) {
        pointerCast<const Word4>(b + box * kBoxBytes + (row * kBoxWidth + piece * 8) * 2)
            .access(emulator::Memory::Access::read);
      }
    }
  }
  for (int row = 0; row < kBoxRows; ++row) {
    for (int i = 0; i < N / 2; ++i) {
      const int column = i / 4 * 8 + laneIndex() % 4 * 2 + i % 2;
      const float left = bitsToFloat(static_cast<uint32_t>(at(a, row)[firstRow + i / 2 % 2 * 8]) << 16);
      const float right = bitsToFloat(
          static_cast<uint32_t>(at(b + column / kBoxWidth * kBoxBytes, row)[column % kBoxWidth]) << 16);
      sums[i] = std::fma(left, right, sums[i]);
    }
  }
}

// A barrier of the warpgroup's 128 threads.
inline void syncWarpgroup() { machine().syncWarpgroup(); }

template <int kLeft, int N>
void waitProducts(float (&)[N]) {
  // Of one thread it says what it says of all.
  syncWarpgroup();
}

// How many clusters of such a launch run at once. (The emulator draws it anew all the time.)
template <typename Kernel>
int clustersAtOnce(Kernel, const LaunchShape&) {
  return std::numeric_limits<int>::max();
}

// A warpgroup's threads take registers that others of the block have left, up to kRegisters each.
template <int kRegisters>
void takeRegisters() {}
template <int kRegisters>
void leaveRegisters() {}

}  // namespace flrc::gpu
