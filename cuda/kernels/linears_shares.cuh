#pragma once

#include "kernels/linears.h"
#include "kernels/staging.cuh"
#include "kernels/weights.cuh"

// What both phases of kernels/linears.cu go by: who does which rows and units, and where things lie in shared
// memory.

namespace flrc::gpu::linears {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;
// Inputs that a warp takes of a row at a time; a row's sum is that of its segments in order, whatever else is
// computed.
inline constexpr int kSegment = 1024;
// Rows whose sums a block holds at once.
inline constexpr int kPassRows = 32;
inline constexpr int kMostXFloats = 16 * 1024;
// Outputs that a lane has of a unit.
inline constexpr int kLaneOutputs = 8;
inline constexpr int kUnitLanes = kUnit / kLaneOutputs;
// Ranks that all warps together take at a time.
inline constexpr int kRoundRanks = kThreads / kUnitLanes;

template <Dtype kType>
struct Chunk {  // 16 bytes of a row
  static constexpr int kWeights = static_cast<int>(16 * kGroup / groupBytes(kType));
  static constexpr int kQuads = kWeights / 4;
  static constexpr int kInSegment = kSegment / kWeights;
  static constexpr int kPerLane = kInSegment / 32;
};

// Shared memory, in this order.
struct Areas {
  Shared<uint64_t> phases;
  Shared<int> units;      // [kMaxJobs][2]: first and end
  Shared<float> x;        // the inputs at hand; in the second phase t
  Shared<float> partial;  // what is still to be added up
  Shared<float> sums;     // [kPassRows][kColumns]
  Shared<uint8_t> stagedRows, stagedPanels;
};

inline constexpr int kPhaseBytes = 16;
inline constexpr int kUnitsBytes = 2 * kMaxJobs * static_cast<int>(sizeof(int));

FLRC_DEVICE constexpr int tileSegments(int xFloats, int columns) { return xFloats / (columns * kSegment); }

constexpr int partialFloats(int xFloats, int columns) {
  const int rows = kPassRows * (xFloats / (columns * kSegment)), units = kWarps * kUnit;
  return columns * (rows > units ? rows : units);
}

template <int kColumns>
FLRC_DEVICE Areas areasOf(const LinearsParams& p) {
  size_t at = kPhaseBytes + kUnitsBytes;
  const auto floats = [&at](int count) {
    const Shared<float> area = sharedMemory<float>(at);
    at += static_cast<size_t>(count) * sizeof(float);
    return area;
  };
  Areas areas;
  areas.phases = sharedMemory<uint64_t>(0);
  areas.units = sharedMemory<int>(kPhaseBytes);
  areas.x = floats(p.xFloats);
  const int rows = kPassRows * tileSegments(p.xFloats, kColumns), units = kWarps * kUnit;
  areas.partial = floats(kColumns * (rows > units ? rows : units));
  areas.sums = floats(kPassRows * kColumns);
  areas.stagedRows = sharedMemory<uint8_t>(at);
  areas.stagedPanels = sharedMemory<uint8_t>(at + static_cast<size_t>(p.stagedRowBytes));
  return areas;
}

// One of the rows of all jobs.
struct RowAt {
  int job, row;
};

FLRC_DEVICE RowAt rowAt(const LinearsParams& p, int index) {
  int job = 0;
  for (; index >= p.rows[job].rows; ++job) index -= p.rows[job].rows;
  return {job, index};
}

FLRC_DEVICE int allRows(const LinearsParams& p) {
  int rows = 0;
  for (int job = 0; job < p.rowJobs; ++job) rows += p.rows[job].rows;
  return rows;
}

template <Dtype kType>
FLRC_DEVICE int rowBytes(const LinearsParams& p) {
  return static_cast<int>(p.stride / kGroup * groupBytes(kType));
}

// The first of a job's units that is this block's or a later one's: a unit is the block's in whose share its
// middle lies, in ranks of all units in order.
FLRC_DEVICE int firstUnit(const PanelJob& job, int64_t before, int64_t all, int block) {
  // The least i for which before + (i + 1/2) rank >= all * block / grid.
  const int64_t grid = gridX(), rank = job.rank;
  const int64_t numerator = 2 * (all * block - before * grid) - rank * grid, denominator = 2 * rank * grid;
  const int64_t units = unitsOf(job.width);
  const int64_t first = numerator <= 0 ? 0 : (numerator + denominator - 1) / denominator;
  return static_cast<int>(first < units ? first : units);
}

// Which units of each job are this block's, to areas.units: a thread takes a job, for divisions are slow. A
// barrier before their use is the caller's.
FLRC_DEVICE void shareUnits(const LinearsParams& p, const Areas& areas) {
  const int own = threadIndex();
  if (own >= p.panelJobs) return;
  int64_t all = 0, before = 0;
  for (int j = 0; j < p.panelJobs; ++j) {
    if (j == own) before = all;
    all += unitsOf(p.panels[j].width) * p.panels[j].rank;
  }
  const bool used = p.panels[own].rank > 0;
  areas.units[2 * own] = used ? firstUnit(p.panels[own], before, all, blockX()) : 0;
  areas.units[2 * own + 1] = used ? firstUnit(p.panels[own], before, all, blockX() + 1) : 0;
}

// body(job, unit) for every unit of this block, in order.
template <typename Body>
FLRC_DEVICE void forUnits(const LinearsParams& p, const Areas& areas, const Body& body) {
  for (int j = 0; j < p.panelJobs; ++j) {
    const int end = areas.units[2 * j + 1];
    for (int unit = areas.units[2 * j]; unit < end; ++unit) body(j, unit);
  }
}

// Ranks of the next unit that still fit behind `staged` bytes.
template <Dtype kType>
FLRC_DEVICE int stagedRanks(const LinearsParams& p, const PanelJob& job, int staged) {
  const int fit = (p.stagedPanelBytes - staged) / static_cast<int>(groupBytes(kType));
  return fit < job.rank ? fit : job.rank;
}

// Has the L2 cache fetch rows [begin, end), as many bytes of them as p.aheadBytes allow one phase.
template <bool kBulk>
FLRC_DEVICE void fetchAhead(const LinearsParams& p, int begin, int end, int bytes) {
  if constexpr (kBulk) {
    const int most = p.aheadBytes / 2 / bytes;
    if (end - begin > most) end = begin + most;
    for (int row = begin + threadIndex(); row < end; row += kThreads) {
      const RowAt at = rowAt(p, row);
      fetchToL2(p.rows[at.job].data + static_cast<int64_t>(at.row) * bytes, static_cast<uint32_t>(bytes));
    }
  }
}

// Starts fetching the block's first rows and the first ranks of its units. Returns how many rows.
template <Dtype kType, bool kBulk>
FLRC_DEVICE int stageWeights(const LinearsParams& p, const Areas& areas, int begin, int end) {
  const int bytes = rowBytes<kType>(p), fit = p.stagedRowBytes / bytes;
  const int rows = end - begin < fit ? end - begin : fit;
  Staging<kBulk> staged(areas.phases, 0);
  staged.expect(static_cast<uint32_t>(rows * bytes));
  for (int i = 0; i < rows; ++i) {
    const RowAt at = rowAt(p, begin + i);
    staged.copy(areas.stagedRows + static_cast<int64_t>(i) * bytes,
                p.rows[at.job].data + static_cast<int64_t>(at.row) * bytes, bytes);
  }
  staged.close();
  fetchAhead<kBulk>(p, begin + rows, end, bytes);

  constexpr int kRankBytes = static_cast<int>(groupBytes(kType));
  int total = 0;
  forUnits(p, areas, [&](int job, int) { total += stagedRanks<kType>(p, p.panels[job], total) * kRankBytes; });
  Staging<kBulk> panels(areas.phases, 1);
  panels.expect(static_cast<uint32_t>(total));
  total = 0;
  int ahead = p.aheadBytes / 2;
  forUnits(p, areas, [&](int j, int unit) {
    const PanelJob& job = p.panels[j];
    const int count = stagedRanks<kType>(p, job, total) * kRankBytes;
    panels.copy(areas.stagedPanels + total, job.data + static_cast<int64_t>(unit) * job.storedRank * kRankBytes,
                count);
    total += count;
    const int left = job.rank * kRankBytes - count, more = left < ahead ? left : ahead;
    if constexpr (kBulk) {
      if (threadIndex() == 0 && more > 0) {
        fetchToL2(job.data + (static_cast<int64_t>(unit) * job.storedRank * kRankBytes + count),
                  static_cast<uint32_t>(more));
      }
    }
    ahead -= more;
  });
  panels.close();
  return rows;
}

}  // namespace flrc::gpu::linears
