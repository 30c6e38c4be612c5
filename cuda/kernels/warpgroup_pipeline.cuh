#pragma once

#include <algorithm>

#include "kernels/device.cuh"
#include "kernels/layout.h"

// How warpgroups multiply what clusters of blocks fetch (sm_90a alone).

namespace flrc::gpu::warpgroups {

// A block makes kRows x kColumns of a product at a time: two warpgroups multiply, 64 rows each, and of a third
// one thread fetches boxes ahead of them, through all tiles that are the block's without a pause. Blocks are in
// clusters of two, whose tiles lie one below the other: each fetches half of the columns' boxes for both.
inline constexpr int kRows = 128;
inline constexpr int kCluster = 2;
inline constexpr int kWarpgroup = 128;
inline constexpr int kMultiplying = 2;
inline constexpr int kThreads = (kMultiplying + 1) * kWarpgroup;

// What a kernel's threads have of registers, when those that fetch have left theirs to those that multiply.
struct Registers {
  int fetching, multiplying;
};

FLRC_DEVICE int clusterIndex() { return blockX() / kCluster; }
FLRC_DEVICE int clusters() { return gridX() / kCluster; }

// Where a box lies in its matrix.
struct BoxPlace {
  int column, row;
};

// What a stage has of matrices A and B, kRows and kColumns of their own dimensions, and how it is multiplied.
// Here both have the tokens that are summed over in rows, and a stage as many of them as a box.
template <int kOwnColumns>
struct SummedRows {
  static constexpr int kColumns = kOwnColumns, kDepth = kBoxRows;
  static constexpr int kLeftBoxes = kRows / kBoxWidth, kRightBoxes = kColumns / kBoxWidth;
  static FLRC_DEVICE BoxPlace left(int row, int depth, int box) { return {row + box * kBoxWidth, depth}; }
  static FLRC_DEVICE BoxPlace right(int column, int depth, int box) {
    return {column + box * kBoxWidth, depth};
  }
  static FLRC_DEVICE void multiply(float (&sums)[kColumns / 2], Shared<const uint8_t> a,
                                   Shared<const uint8_t> b, bool add) {
    multiplyBoxes<kColumns>(sums, a, b, add);
  }
};

// Here A has what is summed over in columns, and so has B, or, with kDown, in rows.
template <int kOwnColumns, bool kDown>
struct SummedColumns {
  static constexpr int kColumns = kOwnColumns, kDepth = kBoxWidth;
  static constexpr int kLeftBoxes = kRows / kBoxRows, kRightBoxes = kColumns / kBoxRows;
  static FLRC_DEVICE BoxPlace left(int row, int depth, int box) { return {depth, row + box * kBoxRows}; }
  static FLRC_DEVICE BoxPlace right(int column, int depth, int box) {
    constexpr int kAcross = kColumns / kBoxWidth;
    if constexpr (kDown) return {column + box % kAcross * kBoxWidth, depth + box / kAcross * kBoxRows};
    return {depth, column + box * kBoxRows};
  }
  static FLRC_DEVICE void multiply(float (&sums)[kColumns / 2], Shared<const uint8_t> a,
                                   Shared<const uint8_t> b, bool add) {
    multiplyWideBoxes<kColumns, kDown>(sums, a, b, add);
  }
};

// kLag: the stages that are behind the first warpgroup when the second one begins; 0: they go side by side.
template <typename Form, int kStages, int kLag = 0>
struct Pipeline {
  static constexpr int kColumns = Form::kColumns, kLeftBoxes = Form::kLeftBoxes,
                       kRightBoxes = Form::kRightBoxes;
  static constexpr int kStageBytes = (kLeftBoxes + kRightBoxes) * kBoxBytes;
  static constexpr size_t kBarriers = size_t{kStages} * kStageBytes;
  static constexpr size_t kBytes = kBarriers + (2 * kStages + 1) * sizeof(uint64_t);
  static_assert(kRightBoxes % kCluster == 0 && kLag < kStages - 1);

  Shared<uint8_t> stages;
  Shared<uint64_t> full, empty;  // [kStages] each
  Shared<uint64_t> ahead;
  int at = 0;
  uint32_t phase = 0, aheadPhase = 0;

  // By all threads of the cluster.
  FLRC_DEVICE Pipeline()
      : stages(sharedMemory<uint8_t>(0)),
        full(sharedMemory<uint64_t>(kBarriers)),
        empty(full + kStages),
        ahead(empty + kStages) {
    if (threadIndex() == 0) {
      for (int i = 0; i < kStages; ++i) {
        phaseInit(full + i, 1);
        phaseInit(empty + i, kMultiplying * kCluster);
      }
      phaseInit(ahead, 1);
    }
    syncWarp();
    syncCluster();
  }
  // Before a block ends: others' arrivals may still be on their way to it.
  FLRC_DEVICE void leave() const {
    syncWarp();
    syncCluster();
  }

  // All stages of one product, by one thread.
  FLRC_DEVICE void fetch(const TensorMap& left, const TensorMap& right, int row, int column, int count,
                         int plane) {
    constexpr int kShare = kRightBoxes / kCluster;
    const int first = clusterRank() * kShare;
    for (int stage = 0; stage < count; ++stage, advance()) {
      const int depth = stage * Form::kDepth;
      phaseWait(empty + at, phase ^ 1);
      phaseExpect(full + at, kStageBytes);
      const Shared<uint8_t> to = stages + at * kStageBytes;
      for (int i = 0; i < kLeftBoxes; ++i) {
        const BoxPlace box = Form::left(row, depth, i);
        copyBox(to + i * kBoxBytes, left, box.column, box.row, plane, full + at);
      }
      for (int i = first; i < first + kShare; ++i) {
        const BoxPlace box = Form::right(column, depth, i);
        multicastBox(to + (kLeftBoxes + i) * kBoxBytes, right, box.column, box.row, plane, full + at,
                     (1 << kCluster) - 1);
      }
    }
  }

  // sums [64, kColumns] of a warpgroup over so many stages.
  FLRC_DEVICE void multiply(int count, float (&sums)[kColumns / 2]) {
    const int warpgroup = threadIndex() / kWarpgroup;
    // The second one must see every phase of `ahead`: before the first can end the next, it needs a place that
    // the second has given back since this one.
    const bool apart = kLag > 0 && count > kLag && count + kLag >= kStages;
    if (apart && warpgroup > 0) phaseWait(ahead, aheadPhase);
    aheadPhase ^= 1;
    int before = -1;
    for (int stage = 0; stage < count; ++stage, advance()) {
      phaseWait(full + at, phase);
      const Shared<const uint8_t> boxes = stages + at * kStageBytes;
      Form::multiply(sums, boxes + warpgroup * (kLeftBoxes / kMultiplying) * kBoxBytes,
                     boxes + kLeftBoxes * kBoxBytes, stage > 0);
      waitProducts<1>(sums);
      release(before);
      before = at;
      if (apart && stage == kLag && threadIndex() == 0) phaseArrive(ahead);
    }
    waitProducts<0>(sums);
    release(before);
  }

 private:
  FLRC_DEVICE void advance() {
    if (++at < kStages) return;
    at = 0;
    phase ^= 1;
  }
  // To all who fetch to it, a thread each.
  FLRC_DEVICE void release(int stage) const {
    const int block = threadIndex() % kWarpgroup;
    if (stage >= 0 && block < kCluster) phaseArriveAt(empty + stage, block);
  }
};

// The tiles of a product, two in a column to a cluster, and of each two the parts that sequences are taken in:
// a unit of a cluster's work.
struct Units {
  int rows, columns, parts, sequences;  // rows and columns of tiles

  struct Unit {
    int row, column;       // of this block's tile, whose row may be one too many
    int part, first, end;  // sequences
  };

  FLRC_ANYWHERE int pairs() const { return (rows + kCluster - 1) / kCluster; }
  FLRC_ANYWHERE int count() const { return pairs() * columns * parts; }
  // Of neighbours, those that run at the same time have kBand pairs of rows and about as many columns: what
  // they read is little, and comes from the L2 cache.
  FLRC_DEVICE Unit at(int unit) const {
    constexpr int kBand = 8;
    const int pair = unit / parts, part = unit % parts;
    const int firstPair = pair / (kBand * columns) * kBand, left = pairs() - firstPair,
              height = left < kBand ? left : kBand, inBand = pair % (kBand * columns);
    return {(firstPair + inBand % height) * kCluster + clusterRank(), inBand / height, part,
            part * sequences / parts, (part + 1) * sequences / parts};
  }
};

// Of a kernel whose clusters share `units` of work. None of them waits for another one: that they all run at
// once saves time, and is needed for nothing.
template <typename Params>
void launchClusters(Stream stream, void (*kernel)(Params), const Params& params, size_t sharedBytes, int units,
                    int blocks) {
  LaunchShape shape;
  shape.threads = kThreads;
  shape.sharedBytes = sharedBytes;
  shape.fitted = true;
  shape.gridX = shape.cluster = kCluster;
  const int most = std::min({units, blocks / kCluster, clustersAtOnce(kernel, shape)});
  shape.gridX = static_cast<unsigned>(std::max(most, 1) * kCluster);
  launch(stream, shape, kernel, params);
}

}  // namespace flrc::gpu::warpgroups
