#pragma once

#include <cmath>

#include "kernels/linears.h"

// What kernels/linears.cu goes by: who multiplies which lines, how sums are cut, and where things lie in shared
// memory.

namespace flrc::gpu::linears {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;
// Lines that a fragment has.
inline constexpr int kTileLines = 8;

template <Dtype kType>
struct Strip {
  static constexpr int kWeights = stripWeights(kType);
  static constexpr int kGroups = kWeights / kUnit;
};
// Slices of a line at most; a warp has one at a time.
inline constexpr int kMostSlices = kWarps;

// A line's sum is that of its slices, whatever else is computed: warps have a slice each. By powers of two as
// long as four strips are left for each.
FLRC_ANYWHERE constexpr int sliceBits(int strips) {
  int bits = 0;
  while (1 << bits < kMostSlices && 8 << bits <= strips) ++bits;
  return bits;
}
FLRC_ANYWHERE constexpr int sliceBegin(int strips, int bits, int slice) { return strips * slice >> bits; }
FLRC_ANYWHERE constexpr int longestSlice(int strips, int bits) { return (strips + (1 << bits) - 1) >> bits; }

// Weights under way to a warp, strip by strip: of a tile's strip 16 bytes for each lane, and what its lines'
// weights are scaled by.
template <Dtype kType>
struct Slot {
  static constexpr int kCount = 16;
  static constexpr int kScales = kTileLines * kStripBytes;
  static constexpr int kBytes = kScales + kTileLines * scaleBytes(kType);
};

// The same by bulk copies, of up to kStrips strips of each line. Lines begin in different banks.
struct Stage {
  static constexpr int kCount = 2;
  static constexpr int kStrips = 8;
  static constexpr int kLineBytes = kStrips * kStripBytes + 64;
  static constexpr int kBytes = kTileLines * kLineBytes;
};

// What becomes of a job's sums.
struct alignas(32) Target {
  Global<float> y;                // null: they are in t or u only
  Global<const int32_t> scatter;  // null: a line's own number
  Global<const float> bias;       // null: none
  int outputs;
  int tagged;  // where they lie in a column of t, or u; -1: they are outputs only
};

// Shared memory, in this order.
struct Areas {
  Shared<Target> targets;   // [2 kMaxJobs]
  Shared<int> shares;       // [2 kMaxJobs][2]: the block's first line of each job, and the end
  Shared<uint64_t> phases;  // [kWarps][Stage::kCount]
  Shared<uint8_t> weights;  // under way: [kWarps][Slot::kCount][Slot::kBytes], or the same of stages
  Shared<Word4> x;          // the inputs at hand, as fragments have them
  Shared<float> partial;    // sums of slices
};

inline constexpr int kTargetsBytes = 2 * kMaxJobs * static_cast<int>(sizeof(Target));
inline constexpr int kSharesBytes = 4 * kMaxJobs * static_cast<int>(sizeof(int));
inline constexpr int kPhasesBytes = kWarps * Stage::kCount * static_cast<int>(sizeof(uint64_t));
template <Dtype kType, bool kBulk>
inline constexpr int kWeightsBytes = kWarps*(kBulk ? Stage::kCount* Stage::kBytes
                                                   : Slot<kType>::kCount* Slot<kType>::kBytes);
template <Dtype kType, bool kBulk>
inline constexpr int kFixedBytes = kTargetsBytes + kSharesBytes + kPhasesBytes + kWeightsBytes<kType, kBulk>;

// Columns of one launch: the eight of a fragment's first rows; its other eight are the same columns' second
// parts.
inline constexpr int kMostColumns = 8;

// The inputs' area in 16-byte words. For every column and group two fragments of four, in each a lane's first
// parts beside its second parts; columns begin in different banks. Then, for int4, the zeros of panels.
FLRC_ANYWHERE constexpr int columnWords(int groups) { return groups * 8 + 4; }
template <Dtype kType>
FLRC_ANYWHERE constexpr int inputWords(int columns, int groups) {
  return columns * columnWords(groups) + (kType == Dtype::int4 ? groups * 4 : 0);
}

template <Dtype kType, bool kBulk>
FLRC_DEVICE Areas areasOf(const LinearsParams& p) {
  constexpr size_t kPhases = kTargetsBytes + kSharesBytes, kInputs = kFixedBytes<kType, kBulk>;
  return {sharedMemory<Target>(0),
          sharedMemory<int>(kTargetsBytes),
          sharedMemory<uint64_t>(kPhases),
          sharedMemory<uint8_t>(kPhases + kPhasesBytes),
          sharedMemory<Word4>(kInputs),
          sharedMemory<float>(kInputs +
                              static_cast<size_t>(inputWords<kType>(p.columns, p.xGroups)) * sizeof(Word4))};
}

// Lines of one job, rows' or panels', as a multiplication sees them. Jobs are counted from the rows' on.
struct Lines {
  Global<const uint8_t> data;
  bool panels;
  int inputs;  // that count; what is behind them in the last strip is multiplied by zeros
  Cut cut;
};

FLRC_DEVICE Lines linesOf(const LinearsParams& p, int job) {
  if (job < p.rowJobs) {
    const RowJob& rows = p.rows[job];
    return {rows.data, false, p.inputs, p.rowCut};
  }
  const PanelJob& panels = p.panels[job - p.rowJobs];
  return {panels.data, true, panels.rank, panels.cut};
}

// Which lines of each job are this block's, to areas.shares, and what becomes of them: a thread takes a job,
// for what is read of the launch's parameters for the first time is slow. A barrier before their use is the
// caller's.
FLRC_DEVICE void shareLines(const LinearsParams& p, const Areas& areas) {
  const int own = threadIndex(), block = blockX();
  if (own < p.rowJobs) {
    const RowJob& job = p.rows[own];
    const int first = static_cast<int>(block * p.rowShare) - job.before;
    const int last =
        (block + 1 < gridX() ? static_cast<int>((block + 1) * p.rowShare) : p.allRows) - job.before;
    areas.targets[own] = Target{job.y, job.scatter, job.bias, job.outputs, job.t};
    areas.shares[2 * own] = first < 0 ? 0 : first;
    areas.shares[2 * own + 1] = last < job.rows ? last : job.rows;
  } else if (own < p.rowJobs + p.panelJobs) {
    const PanelJob& job = p.panels[own - p.rowJobs];
    const double first = ceil(block * job.share - job.before),
                 last = ceil((block + 1) * job.share - job.before);
    const int end =
        block + 1 < gridX() && last * kTileLines < job.width ? static_cast<int>(last) * kTileLines : job.width;
    areas.targets[own] =
        Target{job.u < 0 ? job.y : Global<float>(nullptr), job.scatter, job.bias, job.outputs, job.u};
    areas.shares[2 * own] = first < 0 ? 0 : static_cast<int>(first) * kTileLines;
    areas.shares[2 * own + 1] = job.rank > 0 ? end : 0;
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
