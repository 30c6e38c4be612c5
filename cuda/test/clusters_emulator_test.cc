// Of the emulator: clusters, boxes and warpgroups, by kernels that are wrong on purpose and their mended
// versions.

#include <string>
#include <vector>

#include "check.h"
#include "tensor/dtype.h"
#include "test/faults.h"

using namespace flrc::gpu;
using test::Array;
using test::faultOf;
using test::kSeeds;
using test::says;

namespace {

struct Peers {
  Global<int> out;
  bool before, after;
};

void readPeer(const Peers p) {
  Shared<int> mine = sharedMemory<int>(0);
  mine[threadIndex()] = 100 * clusterRank() + threadIndex();
  if (p.before) syncCluster();
  const int peer = (clusterRank() + 1) % clusterBlocks();
  p.out[blockX() * blockThreads() + threadIndex()] = peerShared(mine, peer)[threadIndex()];
  if (p.after) syncCluster();
}

}  // namespace

TEST("emulator: blocks of a cluster see each other's shared memory between cluster barriers") {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Array<int> out(256);
    const LaunchShape shape{.gridX = 4, .threads = 64, .sharedBytes = 256, .cluster = 2};
    CHECK_EQUAL(faultOf(seed, shape, readPeer, Peers{out.global(), true, true}), "");
    for (int i = 0; i < 256; ++i) {
      CHECK_EQUAL(out.download()[static_cast<size_t>(i)], 100 * (1 - i / 64 % 2) + i % 64);
    }
    CHECK(!faultOf(seed, shape, readPeer, Peers{out.global(), false, true}).empty());
    CHECK(!faultOf(seed, shape, readPeer, Peers{out.global(), true, false}).empty());
  }
}

namespace {

struct Sharing {
  TensorMap from;  // [planes][kBoxRows][2 * kBoxWidth]
  Global<uint16_t> out;
  int planes;
  bool met, both, left;
  uint32_t blocks, expected;
};

// Each block of a cluster fetches one of two boxes for both, plane by plane, into the same place.
void shareBoxes(const Sharing p) {
  const Shared<uint8_t> boxes = sharedMemory<uint8_t>(0);
  const Shared<uint64_t> full = sharedMemory<uint64_t>(2 * kBoxBytes), empty = full + 1;
  if (threadIndex() == 0) {
    phaseInit(full, 1);
    phaseInit(empty, p.both ? 2 : 1);
  }
  syncBlock();
  if (p.met) syncCluster();
  for (int plane = 0; plane < p.planes; ++plane) {
    const uint32_t phase = static_cast<uint32_t>(plane % 2);
    if (threadIndex() == 0) {
      phaseWait(empty, phase ^ 1);
      phaseExpect(full, p.expected);
      multicastBox(boxes + clusterRank() * kBoxBytes, p.from, clusterRank() * kBoxWidth, 0, plane, full,
                   p.blocks);
    }
    phaseWait(full, phase);
    for (int box = 0; box < 2; ++box) {
      p.out[((blockX() * p.planes + plane) * 2 + box) * blockThreads() + threadIndex()] =
          pointerCast<const uint16_t>(boxes + box * kBoxBytes)[threadIndex()];
    }
    syncBlock();
    if (p.both && threadIndex() < 2) phaseArriveAt(empty, threadIndex());
    if (!p.both && threadIndex() == 0) phaseArrive(empty);
  }
  if (p.left) syncCluster();
}

}  // namespace

TEST(
    "emulator: a box fetched for both blocks of a cluster comes to each, when both have given its place back") {
  constexpr int kPlanes = 3;
  std::vector<uint16_t> values;
  for (int i = 0; i < kPlanes * kBoxRows * 2; ++i)
    values.insert(values.end(), kBoxWidth, static_cast<uint16_t>(i % 2 + i / (2 * kBoxRows) * 2));
  constexpr uint32_t kBoth = 3, kBytes = 2 * kBoxBytes;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Array<uint16_t> in(values), out(size_t{4 * kPlanes * 2 * 64});
    const LaunchShape shape{.gridX = 4, .threads = 64, .sharedBytes = 2 * kBoxBytes + 16, .cluster = 2};
    const auto fault = [&](bool met, bool both, bool left, uint32_t blocks, uint32_t expected) {
      return faultOf(seed, shape, shareBoxes,
                     Sharing{tensorMapOf(in.read(), 2 * kBoxWidth, 2 * kBoxWidth, kBoxRows, kPlanes),
                             out.global(), kPlanes, met, both, left, blocks, expected});
    };
    CHECK_EQUAL(fault(true, true, true, kBoth, kBytes), "");
    for (size_t i = 0; i < 4 * kPlanes * 2 * 64; ++i) CHECK_EQUAL(out.at(i), i / 64 % (2 * kPlanes));
    CHECK(!fault(false, true, true, kBoth, kBytes).empty());
    CHECK(!fault(true, false, true, kBoth, kBytes).empty());
    CHECK(!fault(true, true, true, kBoth, kBoxBytes).empty());
    CHECK(says(fault(true, true, true, kBoth, 3 * kBoxBytes), "mbarrier"));
    CHECK(says(fault(true, true, true, 1, kBytes), "mbarrier"));
    CHECK(says(fault(true, true, true, 0, kBytes), "no block"));
    CHECK(says(fault(true, true, true, 5, kBytes), "block 2 of a cluster of 2"));
    CHECK(!fault(true, true, false, kBoth, kBytes).empty());
  }
}

namespace {

struct Abandoned {
  TensorMap from;
  bool wait;
};

// A block that ends while its neighbour's copy to it is on its way.
void abandonBox(const Abandoned p) {
  const Shared<uint64_t> full = sharedMemory<uint64_t>(kBoxBytes);
  if (threadIndex() == 0) {
    phaseInit(full, 1);
    phaseExpect(full, clusterRank() == 1 ? kBoxBytes : 0);
  }
  syncCluster();
  if (threadIndex() == 0 && clusterRank() == 0)
    multicastBox(sharedMemory<uint8_t>(0), p.from, 0, 0, 0, full, 2);
  syncCluster();
  if (p.wait && clusterRank() == 1) phaseWait(full, 0);
}

struct Products {
  TensorMap from;
  Global<float> out;
  bool early, wait, alike;
};

// A^T A of two boxes, one after the other through the same place, by a warpgroup; a warp behind it fetches.
void multiplyTwice(const Products p) {
  const Shared<uint8_t> box = sharedMemory<uint8_t>(0);
  const Shared<uint64_t> full = sharedMemory<uint64_t>(kBoxBytes), empty = full + 1;
  if (threadIndex() == 0) {
    phaseInit(full, 1);
    phaseInit(empty, flrc::emulator::kWarpgroupThreads);
  }
  syncBlock();
  for (uint32_t i = 0; i < 2 && threadIndex() == flrc::emulator::kWarpgroupThreads; ++i) {
    phaseWait(empty, i ^ 1);
    phaseExpect(full, kBoxBytes);
    copyBox(box, p.from, 0, 0, static_cast<int>(i), full);
  }
  float sums[32];
  for (uint32_t i = 0; i < 2 && threadIndex() < flrc::emulator::kWarpgroupThreads; ++i) {
    phaseWait(full, i);
    multiplyBoxes<64>(sums, box, box, i > 0 && (p.alike || threadIndex() != 40));
    if (p.early) phaseArrive(empty);
    if (p.wait) waitProducts<0>(sums);
    if (!p.early) phaseArrive(empty);
  }
  for (int i = 0; i < 32 && threadIndex() < flrc::emulator::kWarpgroupThreads; ++i)
    p.out[threadIndex() * 32 + i] = sums[i];
}

}  // namespace

TEST("emulator: a block does not end before what others copy to it has landed") {
  Array<uint16_t> in(std::vector<uint16_t>(kBoxRows * kBoxWidth));
  const TensorMap map = tensorMapOf(in.read(), kBoxWidth, kBoxWidth, kBoxRows, 1);
  const LaunchShape shape{.gridX = 2, .threads = 32, .sharedBytes = kBoxBytes + 8, .cluster = 2};
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    CHECK_EQUAL(faultOf(seed, shape, abandonBox, Abandoned{map, true}), "");
    CHECK(!faultOf(seed, shape, abandonBox, Abandoned{map, false}).empty());
  }
}

TEST("emulator: a warpgroup's product reads its boxes until it is waited for") {
  std::vector<uint16_t> values(2 * kBoxRows * kBoxWidth);
  for (size_t i = 0; i < values.size(); ++i) values[i] = flrc::floatToBf16(static_cast<float>(i % 7) - 2);
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Array<uint16_t> in(values);
    Array<float> out(size_t{128 * 32});
    const LaunchShape shape{.threads = 160, .sharedBytes = kBoxBytes + 16};
    const auto fault = [&](bool early, bool wait, bool alike) {
      return faultOf(seed, shape, multiplyTwice,
                     Products{tensorMapOf(in.read(), kBoxWidth, kBoxWidth, kBoxRows, 2), out.global(), early,
                              wait, alike});
    };
    CHECK_EQUAL(fault(false, true, true), "");
    // Row 0, column 0 of A^T A.
    float sum = 0;
    for (size_t row = 0; row < 2 * kBoxRows; ++row) {
      const float value = flrc::bf16ToFloat(values[row * kBoxWidth]);
      sum += value * value;
    }
    CHECK_EQUAL(out.at(0), sum);
    CHECK(!fault(true, true, true).empty());
    CHECK(!fault(false, false, true).empty());
    CHECK(says(fault(false, true, false), "different boxes"));
  }
}
