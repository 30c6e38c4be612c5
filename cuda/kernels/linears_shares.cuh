#pragma once

#include <cmath>

#include "kernels/linears.h"

// What kernels/linears.cu goes by: who multiplies which lines, how sums are cut, and where things lie in shared
// memory.

namespace flrc::gpu::linears {

inline constexpr int kThreads = 512;
inline constexpr int kWarps = kThreads / 32;
// Lines that a fragment has.
inline constexpr int kTileLines = 8;
// bf16 values that an activation is the exact sum of.
inline constexpr int kParts = 3;

template <Dtype kType>
struct Strip {
  static constexpr int kWeights = stripWeights(kType);
  static constexpr int kGroups = kWeights / kUnit;
  // Slices of a line at most; a warp has one at a time.
  static constexpr int kMostSlices = kType == Dtype::int4 ? 8 : kWarps;
};

// A line's sum is that of its slices, whatever else is computed: warps have a slice each. By powers of two as
// long as four strips are left for each.
template <Dtype kType>
FLRC_ANYWHERE constexpr int sliceBits(int strips) {
  int bits = 0;
  while (1 << bits < Strip<kType>::kMostSlices && 8 << bits <= strips) ++bits;
  return bits;
}
FLRC_ANYWHERE constexpr int sliceBegin(int strips, int bits, int slice) { return strips * slice >> bits; }
FLRC_ANYWHERE constexpr int longestSlice(int strips, int bits) { return (strips + (1 << bits) - 1) >> bits; }

// Strips under way to a warp.
inline constexpr int kAhead = 8;

// Of a tile's strip in a warp: 16 bytes for each lane; what the lines' weights are scaled by.
template <Dtype kType>
struct Slot {
  static constexpr int kScaleBytes = kType == Dtype::int4 ? 8 : kType == Dtype::int8 ? 4 : 0;
  static constexpr int kZeroBytes = kType == Dtype::int4 ? 4 : 0;
  static constexpr int kData = kTileLines * kStripBytes;
  static constexpr int kScales = kData, kZeros = kScales + kTileLines * kScaleBytes;
  static constexpr int kBytes = kZeros + kTileLines * kZeroBytes;
};

// Shared memory, in this order.
struct Areas {
  Shared<uint8_t> slots;  // [kWarps][kAhead][Slot::kBytes]
  Shared<int> shares;     // [2 kMaxJobs][2]: the block's first line of each job, and the end
  Shared<uint16_t> x;     // the inputs at hand in parts, [kParts columns (int4: and zeros)][xGroups][kUnit]
  Shared<float> partial;  // sums of slices
};

template <Dtype kType>
inline constexpr int kSlotsBytes = kWarps* kAhead* Slot<kType>::kBytes;
inline constexpr int kSharesBytes = 4 * kMaxJobs * static_cast<int>(sizeof(int));

// Rows of the inputs' area.
template <Dtype kType>
FLRC_ANYWHERE constexpr int inputRows(int columns) {
  return kParts * columns + (kType == Dtype::int4 ? 1 : 0);
}

template <Dtype kType>
FLRC_DEVICE Areas areasOf(const LinearsParams& p) {
  constexpr size_t kInputs = kSlotsBytes<kType> + kSharesBytes;
  const size_t xBytes = static_cast<size_t>(inputRows<kType>(p.columns) * p.xGroups) * kUnit * sizeof(uint16_t);
  return {sharedMemory<uint8_t>(0), sharedMemory<int>(kSlotsBytes<kType>), sharedMemory<uint16_t>(kInputs),
          sharedMemory<float>(kInputs + xBytes)};
}

// Lines of one job, rows' or panels', as a multiplication sees them. Jobs are counted from the rows' on.
struct Lines {
  Global<const uint8_t> data;
  Global<const uint16_t> scale;
  Global<const uint8_t> zero;
  bool panels;
  int inputs;  // that count; what is behind them in the last strip is multiplied by zeros
  Cut cut;
};

FLRC_DEVICE Lines linesOf(const LinearsParams& p, int job) {
  if (job < p.rowJobs) {
    const RowJob& rows = p.rows[job];
    return {rows.data, rows.scale, rows.zero, false, p.inputs, p.rowCut};
  }
  const PanelJob& panels = p.panels[job - p.rowJobs];
  return {panels.data, panels.scale, panels.zero, true, panels.rank, panels.cut};
}

FLRC_DEVICE int allRows(const LinearsParams& p) {
  int rows = 0;
  for (int job = 0; job < p.rowJobs; ++job) rows += p.rows[job].rows;
  return rows;
}

// The first of a panel job's tiles that is this block's or a later one's: a tile is the block's in whose share
// its middle lies, in ranks of all tiles in order.
FLRC_DEVICE int firstTile(const PanelJob& job, double before, double all, int block) {
  const double middle = (all * block / gridX() - before) / job.rank - 0.5;
  const int tiles = (job.width + kTileLines - 1) / kTileLines;
  return middle <= 0 ? 0 : middle >= tiles ? tiles : static_cast<int>(ceil(middle));
}

// Which lines of each job are this block's, to areas.shares: a thread takes a job, for divisions are slow. A
// barrier before their use is the caller's.
FLRC_DEVICE void shareLines(const LinearsParams& p, const Areas& areas) {
  const int own = threadIndex();
  if (own < p.rowJobs) {
    const auto rows = static_cast<unsigned>(allRows(p)), block = static_cast<unsigned>(blockX());
    const auto blocks = static_cast<unsigned>(gridX());
    int before = 0;
    for (int j = 0; j < own; ++j) before += p.rows[j].rows;
    const int begin = static_cast<int>(rows * block / blocks) - before,
              end = static_cast<int>(rows * (block + 1) / blocks) - before, most = p.rows[own].rows;
    areas.shares[2 * own] = begin < 0 ? 0 : begin;
    areas.shares[2 * own + 1] = end < most ? end : most;
  } else if (own < p.rowJobs + p.panelJobs) {
    double all = 0, before = 0;
    for (int j = 0; j < p.panelJobs; ++j) {
      if (j == own - p.rowJobs) before = all;
      all += static_cast<double>((p.panels[j].width + kTileLines - 1) / kTileLines) * p.panels[j].rank;
    }
    const PanelJob& job = p.panels[own - p.rowJobs];
    const int begin = job.rank > 0 ? firstTile(job, before, all, blockX()) * kTileLines : 0;
    const int end = job.rank > 0 ? firstTile(job, before, all, blockX() + 1) * kTileLines : 0;
    areas.shares[2 * own] = begin;
    areas.shares[2 * own + 1] = end < job.width ? end : job.width;
  }
}

// Lines of one job that are multiplied at a time.
struct Piece {
  int job, first, count;
};

// The block's next piece, of lines [first, first + count) of a job; false behind the last.
template <Dtype kType>
FLRC_DEVICE bool nextPiece(const LinearsParams& p, const Areas& areas, Piece& piece) {
  int job = piece.job, first = piece.first + piece.count;
  for (; job < p.rowJobs + p.panelJobs; ++job, first = 0) {
    const int begin = areas.shares[2 * job], end = areas.shares[2 * job + 1];
    if (first < begin) first = begin;
    if (first >= end) continue;
    const bool panels = job >= p.rowJobs;
    int most = panels ? p.panels[job - p.rowJobs].cut.lines : p.rowCut.lines;
    // A unit has inputs of its own, which its scales are in.
    if (kType != Dtype::bf16 && panels && most > kUnit - first % kUnit) most = kUnit - first % kUnit;
    piece = {job, first, end - first < most ? end - first : most};
    return true;
  }
  return false;
}

}  // namespace flrc::gpu::linears
