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

// What a lane touches of boxes, all of which every lane reads: a share of them.
template <int N>
void touchBoxes(Shared<const uint8_t> a, Shared<const uint8_t> b) {
  const auto touch = [](Shared<const uint8_t> box) {
    for (int at = laneIndex() * 16; at < kBoxBytes; at += emulator::kWarpThreads * 16)
      pointerCast<const Word4>(box + at).access(emulator::Memory::Access::read);
  };
  touch(a);
  for (int box = 0; box < N / kBoxWidth; ++box) touch(b + box * kBoxBytes);
}

// sums [64, N] (+)= A^T B of a warpgroup, A one box and B N / 64 of them: over the rows of boxes. Lanes have of
// 16 rows a warp and of every 8 columns what multiplyFragments gives them. Boxes are read, and sums written,
// at any time up to waitProducts<kLeft>, behind which all but the last kLeft multiplications are done. (The
// emulator does them there.)
template <int N>
void multiplyBoxes(float (&)[N / 2], Shared<const uint8_t> a, Shared<const uint8_t> b, bool add) {
  touchBoxes<N>(a, b);
  emulator::Machine::thread().products.push_back({a, b, add});
}

template <int kLeft, int N>
void waitProducts(float (&sums)[N]) {
  auto& products = emulator::Machine::thread().products;
  while (products.size() > kLeft) {
    const auto [a, b, add] = products.front();
    products.erase(products.begin());
    touchBoxes<2 * N>(a, b);
    const int firstRow = warpIndex() % 4 * 16 + laneIndex() / 4;
    const auto at = [](Shared<const uint8_t> box, int row, int column) {
      const auto* line = reinterpret_cast<const uint16_t*>((box + row * kBoxWidth * 2).at());
      return bitsToFloat(static_cast<uint32_t>(line[column]) << 16);
    };
    for (int i = 0; i < N && !add; ++i) sums[i] = 0;
    for (int row = 0; row < kBoxRows; ++row) {
      for (int i = 0; i < N; ++i) {
        const int column = i / 4 * 8 + laneIndex() % 4 * 2 + i % 2;
        sums[i] = std::fma(at(a, row, firstRow + i / 2 % 2 * 8),
                           at(b + column / kBoxWidth * kBoxBytes, row, column % kBoxWidth), sums[i]);
      }
    }
  }
  // Of one thread it says what it says of all.
  machine().syncWarpgroup();
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
