#pragma once

// The device layer for warpgroups of four warps, which sm_90a alone has, on the emulator.

#include <limits>

#include "emulator/device.h"
#include "emulator/products.h"

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
inline void touchBoxes(Shared<const uint8_t> first, int count) {
  for (int at = laneIndex() * 16; at < count * kBoxBytes; at += emulator::kWarpThreads * 16)
    pointerCast<const Word4>(first + at).access(emulator::Memory::Access::read);
}
template <int N>
void touchBoxes(const emulator::Thread::Product& product) {
  touchBoxes(product.a, product.wide ? 2 : 1);
  touchBoxes(product.b, N / (product.wide ? kBoxRows : kBoxWidth));
}

template <int N>
void startProduct(const emulator::Thread::Product& product) {
  touchBoxes<N>(product);
  emulator::Machine::thread().products.push_back(product);
}

// sums [64, N] (+)= A^T B of a warpgroup, A one box and B N / 64 of them: over the rows of boxes. Lanes have of
// 16 rows a warp and of every 8 columns what multiplyFragments gives them. Boxes are read, and sums written,
// at any time up to waitProducts<kLeft>, behind which all but the last kLeft multiplications are done. (The
// emulator does them there.)
template <int N>
void multiplyBoxes(float (&)[N / 2], Shared<const uint8_t> a, Shared<const uint8_t> b, bool add) {
  startProduct<N>({a, b, add, false, true});
}
// sums (+)= A B^T over the 64 values of boxes' rows: A two boxes, 64 rows, and B N rows. With kRightDown A B
// over as many rows of B: N / 64 boxes of the first 32, and then those of the others.
template <int N, bool kRightDown>
void multiplyWideBoxes(float (&)[N / 2], Shared<const uint8_t> a, Shared<const uint8_t> b, bool add) {
  startProduct<N>({a, b, add, true, kRightDown});
}

template <int kLeft, int N>
void waitProducts(float (&sums)[N]) {
  const auto& products = emulator::Machine::thread().products;
  for (size_t i = 0; i + kLeft < products.size(); ++i) touchBoxes<2 * N>(products[i]);
  // Of one thread it says what it says of all.
  machine().warpgroupOperation([](void* const* all) { emulator::finishProducts(kLeft, 2 * N, all); }, sums);
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
