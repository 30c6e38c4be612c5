#include <algorithm>

#include "kernels/linears.h"
#include "kernels/staging.cuh"
#include "kernels/warp.cuh"
#include "kernels/weights.cuh"

// A launch has two phases with a barrier of the grid between them: rows times x, which gives t (and what is
// dense), and panels times t. Blocks share rows and units of panels evenly. Each fetches the first of its
// weights of both phases to shared memory before it waits for the launch ahead, so that memory is busy while x,
// and then t, are made.

namespace flrc::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
// Inputs that a warp takes of a row at a time; a row's sum is that of its segments in order, whatever else is
// computed.
constexpr int kSegment = 1024;
// Rows whose sums a block holds at once.
constexpr int kPassRows = 32;
constexpr int kMostXFloats = 16 * 1024;
// Outputs that a lane has of a unit.
constexpr int kLaneOutputs = 8;
constexpr int kUnitLanes = kUnit / kLaneOutputs;
// Ranks that all warps together take at a time.
constexpr int kRoundRanks = kThreads / kUnitLanes;

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
  Shared<float> x;        // the inputs at hand; in the second phase t
  Shared<float> partial;  // what is still to be added up
  Shared<float> sums;     // [kPassRows][kColumns]
  Shared<uint8_t> stagedRows, stagedPanels;
};

constexpr int kPhaseBytes = 16;

FLRC_DEVICE constexpr int tileSegments(int xFloats, int columns) { return xFloats / (columns * kSegment); }

constexpr int partialFloats(int xFloats, int columns) {
  const int rows = kPassRows * (xFloats / (columns * kSegment)), units = kWarps * kUnit;
  return columns * (rows > units ? rows : units);
}

template <int kColumns>
FLRC_DEVICE Areas areasOf(const LinearsParams& p) {
  size_t at = kPhaseBytes;
  const auto floats = [&at](int count) {
    const Shared<float> area = sharedMemory<float>(at);
    at += static_cast<size_t>(count) * sizeof(float);
    return area;
  };
  Areas areas;
  areas.phases = sharedMemory<uint64_t>(0);
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

// The units of a job that are this block's: those whose middle, in ranks of all units in order, lies in its
// share.
struct UnitRange {
  int begin, end;
};

FLRC_DEVICE int firstUnit(const PanelJob& job, int64_t before, int64_t all, int block) {
  // The least i for which before + (i + 1/2) rank >= all * block / grid.
  const int64_t grid = gridX(), rank = job.rank;
  const int64_t numerator = 2 * (all * block - before * grid) - rank * grid, denominator = 2 * rank * grid;
  const int64_t units = unitsOf(job.width);
  const int64_t first = numerator <= 0 ? 0 : (numerator + denominator - 1) / denominator;
  return static_cast<int>(first < units ? first : units);
}

// body(job, unit) for every unit of this block, in order.
template <typename Body>
FLRC_DEVICE void forUnits(const LinearsParams& p, const Body& body) {
  int64_t all = 0, before = 0;
  for (int j = 0; j < p.panelJobs; ++j) all += unitsOf(p.panels[j].width) * p.panels[j].rank;
  for (int j = 0; j < p.panelJobs; ++j) {
    const PanelJob& job = p.panels[j];
    if (job.rank == 0) continue;
    const int end = firstUnit(job, before, all, blockX() + 1);
    for (int unit = firstUnit(job, before, all, blockX()); unit < end; ++unit) body(j, unit);
    before += unitsOf(job.width) * job.rank;
  }
}

// Ranks of the next unit that still fit behind `staged` bytes.
template <Dtype kType>
FLRC_DEVICE int stagedRanks(const LinearsParams& p, const PanelJob& job, int staged) {
  const int fit = (p.stagedPanelBytes - staged) / static_cast<int>(groupBytes(kType));
  return fit < job.rank ? fit : job.rank;
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

  constexpr int kRankBytes = static_cast<int>(groupBytes(kType));
  int total = 0;
  forUnits(p, [&](int job, int) { total += stagedRanks<kType>(p, p.panels[job], total) * kRankBytes; });
  Staging<kBulk> panels(areas.phases, 1);
  panels.expect(static_cast<uint32_t>(total));
  total = 0;
  forUnits(p, [&](int j, int unit) {
    const PanelJob& job = p.panels[j];
    const int count = stagedRanks<kType>(p, job, total) * kRankBytes;
    panels.copy(areas.stagedPanels + total, job.data + static_cast<int64_t>(unit) * job.storedRank * kRankBytes,
                count);
    total += count;
  });
  panels.close();
  return rows;
}

// Inputs [first, first + width) of all columns, zeros behind the last input and the last column. Chunks of a
// lane's inputs are split in quads, and the quads of all chunks lie side by side: [column][quad of a
// chunk][chunk][4], so that lanes, which have a chunk each, read neighbouring banks.
template <Dtype kType, int kColumns>
FLRC_DEVICE void loadInputs(const LinearsParams& p, const Areas& areas, int first, int width) {
  constexpr int kWeights = Chunk<kType>::kWeights, kQuads = Chunk<kType>::kQuads;
  const int chunks = width / kWeights;
  for (int column = 0; column < kColumns; ++column) {
    for (int i = threadIndex(); i < width; i += kThreads) {
      const bool there = column < p.columns && first + i < p.inputs;
      const int place = ((column * kQuads + i % kWeights / 4) * chunks + i / kWeights) * 4 + i % 4;
      areas.x[place] = there ? p.x[static_cast<int64_t>(column) * p.inputs + first + i] : 0.0f;
    }
  }
}

// What a warp is at: a segment of up to kRows rows.
struct Item {
  int row, rows;      // among all jobs' rows
  int segment;        // of the whole row
  int tileChunk;      // where the segment begins in the inputs at hand
  int tileChunks;     // that the inputs at hand are
  int staged, begin;  // rows in shared memory, and the block's first row
};

template <Dtype kType, int kColumns, int kRows>
FLRC_DEVICE void addSegment(const LinearsParams& p, const Areas& areas, const Item& item,
                            float (&sum)[kRows][kColumns]) {
  using Part = Chunk<kType>;
  // Chunks of each row that are under way together.
  constexpr int kAtOnce = kColumns > 1 && Part::kPerLane > 2 ? 2 : Part::kPerLane;
  constexpr int kOctetWords = 8 / kWordWeights<kType>;
  const int lane = laneIndex(), bytes = rowBytes<kType>(p), rowChunks = p.stride / Part::kWeights;
  const int first = item.segment * Part::kInSegment;
  const Shared<const Float4> x = pointerCast<const Float4>(areas.x);

  FLRC_UNROLL
  for (int step = 0; step < Part::kPerLane; step += kAtOnce) {
    Word4 raw[kRows][kAtOnce];
    Grid grid[kRows][kAtOnce];
    FLRC_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int index = item.row + (r < item.rows ? r : 0);
      const RowAt at = rowAt(p, index);
      const RowJob& job = p.rows[at.job];
      FLRC_UNROLL
      for (int c = 0; c < kAtOnce; ++c) {
        const int chunk = first + (step + c) * 32 + lane;
        raw[r][c] = Word4{0, 0, 0, 0};
        grid[r][c] = Grid{0, 0};
        if (chunk >= rowChunks) continue;
        if (index - item.begin < item.staged) {
          const int64_t offset = static_cast<int64_t>(index - item.begin) * bytes;
          raw[r][c] = pointerCast<const Word4>(Shared<const uint8_t>(areas.stagedRows) + offset)[chunk];
        } else {
          raw[r][c] =
              streamed(pointerCast<const Word4>(job.data + static_cast<int64_t>(at.row) * bytes) + chunk);
        }
        const int64_t group =
            static_cast<int64_t>(at.row) * (p.stride / kUnit) + chunk * Part::kWeights / kUnit;
        grid[r][c] = gridAt<kType>(job.scale, job.zero, group);
      }
    }
    FLRC_UNROLL
    for (int c = 0; c < kAtOnce; ++c) {
      const int chunk = item.tileChunk + (step + c) * 32 + lane;
      FLRC_UNROLL
      for (int octet = 0; octet < Part::kWeights / 8; ++octet) {
        float weight[kRows][8];
        FLRC_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const uint32_t words[4] = {raw[r][c].x, raw[r][c].y, raw[r][c].z, raw[r][c].w};
          FLRC_UNROLL
          for (int w = 0; w < kOctetWords; ++w) {
            unpack<kType>(words[octet * kOctetWords + w], grid[r][c].offset,
                          weight[r] + w * kWordWeights<kType>);
          }
          if constexpr (kType != Dtype::bf16) {
            FLRC_UNROLL
            for (int i = 0; i < 8; ++i) weight[r][i] *= grid[r][c].scale;
          }
        }
        FLRC_UNROLL
        for (int column = 0; column < kColumns; ++column) {
          FLRC_UNROLL
          for (int half = 0; half < 2; ++half) {
            const Float4 in = x[(column * Part::kQuads + octet * 2 + half) * item.tileChunks + chunk];
            FLRC_UNROLL
            for (int r = 0; r < kRows; ++r) {
              float& total = sum[r][column];
              total = fusedMultiplyAdd(weight[r][half * 4], in.x, total);
              total = fusedMultiplyAdd(weight[r][half * 4 + 1], in.y, total);
              total = fusedMultiplyAdd(weight[r][half * 4 + 2], in.z, total);
              total = fusedMultiplyAdd(weight[r][half * 4 + 3], in.w, total);
            }
          }
        }
      }
    }
  }
}

// Rows [begin, begin + rows), at most kPassRows, times all inputs: results to t and y.
template <Dtype kType, int kColumns>
FLRC_DEVICE void rowPass(const LinearsParams& p, const Areas& areas, int begin, int rows, int blockBegin,
                         int staged, int& loaded) {
  // One column is bound by loads, which two rows hide; more share what they read of x among four.
  constexpr int kRows = kColumns == 1 ? 2 : 4;
  const int segments = (p.stride + kSegment - 1) / kSegment, atOnce = tileSegments(p.xFloats, kColumns);
  const int groups = (rows + kRows - 1) / kRows;
  for (int tile = 0; tile < segments; tile += atOnce) {
    const int count = segments - tile < atOnce ? segments - tile : atOnce;
    if (loaded != tile) loadInputs<kType, kColumns>(p, areas, tile * kSegment, count * kSegment);
    loaded = tile;
    syncBlock();
    for (int i = warpIndex(); i < groups * count; i += kWarps) {
      const int row = i / count * kRows, segment = i % count;
      Item item;
      item.row = begin + row;
      item.rows = rows - row < kRows ? rows - row : kRows;
      item.segment = tile + segment;
      item.tileChunk = segment * Chunk<kType>::kInSegment;
      item.tileChunks = count * Chunk<kType>::kInSegment;
      item.staged = staged;
      item.begin = blockBegin;
      float sum[kRows][kColumns] = {};
      addSegment<kType, kColumns, kRows>(p, areas, item, sum);
      FLRC_UNROLL
      for (int r = 0; r < kRows; ++r) {
        FLRC_UNROLL
        for (int column = 0; column < kColumns; ++column) {
          const float total = warpSum(sum[r][column]);
          if (laneIndex() == 0 && r < item.rows) {
            areas.partial[((row + r) * count + segment) * kColumns + column] = total;
          }
        }
      }
    }
    syncBlock();
    for (int i = threadIndex(); i < rows * kColumns; i += kThreads) {
      const int row = i / kColumns, column = i % kColumns;
      float total = tile == 0 ? 0.0f : areas.sums[i];
      for (int s = 0; s < count; ++s) total += areas.partial[(row * count + s) * kColumns + column];
      areas.sums[i] = total;
      if (tile + count < segments || column >= p.columns) continue;
      const RowAt at = rowAt(p, begin + row);
      const RowJob& job = p.rows[at.job];
      if (job.t >= 0) p.t[static_cast<int64_t>(column) * p.tWidth + job.t + at.row] = total;
      if (job.y != nullptr) {
        const int output = job.scatter != nullptr ? job.scatter[at.row] : at.row;
        const float bias = job.bias != nullptr ? job.bias[output] : 0.0f;
        job.y[static_cast<int64_t>(column) * job.outputs + output] = total + bias;
      }
    }
  }
}

// Adds ranks [first, first + count) of a unit; t of these ranks is in shared memory, [rank][kColumns].
template <Dtype kType, int kColumns>
FLRC_DEVICE void addRanks(const PanelJob& job, int unit, int first, int count, int staged,
                          Shared<const uint8_t> stagedUnit, Shared<const float> t,
                          float (&sum)[kLaneOutputs][kColumns]) {
  constexpr int kAhead = 4, kWords = kLaneOutputs / kWordWeights<kType>;
  constexpr int kRankBytes = static_cast<int>(groupBytes(kType)), kLaneBytes = kRankBytes / kUnitLanes;
  const int lane = laneIndex(), rank = warpIndex() * (32 / kUnitLanes) + lane / kUnitLanes;
  const int64_t unitRank = static_cast<int64_t>(unit) * job.storedRank;
  for (int round = 0; round < count; round += kAhead * kRoundRanks) {
    uint32_t raw[kAhead][4] = {};
    Grid grid[kAhead];
    FLRC_UNROLL
    for (int a = 0; a < kAhead; ++a) {
      const int j = first + round + a * kRoundRanks + rank;
      grid[a] = Grid{0, 0};
      if (j >= first + count) continue;
      const int64_t offset = static_cast<int64_t>(j) * kRankBytes + lane % kUnitLanes * kLaneBytes;
      const bool near = j < staged;
      const Global<const uint8_t> far = job.data + (unitRank * kRankBytes + offset);
      if constexpr (kWords == 4) {
        const Word4 word =
            near ? pointerCast<const Word4>(stagedUnit + offset)[0] : streamed(pointerCast<const Word4>(far));
        raw[a][0] = word.x;
        raw[a][1] = word.y;
        raw[a][2] = word.z;
        raw[a][3] = word.w;
      } else if constexpr (kWords == 2) {
        const Word2 word =
            near ? pointerCast<const Word2>(stagedUnit + offset)[0] : streamed(pointerCast<const Word2>(far));
        raw[a][0] = word.x;
        raw[a][1] = word.y;
      } else {
        raw[a][0] = near ? pointerCast<const uint32_t>(stagedUnit + offset)[0]
                         : streamed(pointerCast<const uint32_t>(far));
      }
      grid[a] = gridAt<kType>(job.scale, job.zero, unitRank + j);
    }
    FLRC_UNROLL
    for (int a = 0; a < kAhead; ++a) {
      const int j = round + a * kRoundRanks + rank;
      if (j >= count) continue;
      float weight[kLaneOutputs];
      FLRC_UNROLL
      for (int w = 0; w < kWords; ++w)
        unpack<kType>(raw[a][w], grid[a].offset, weight + w * kWordWeights<kType>);
      if constexpr (kType != Dtype::bf16) {
        FLRC_UNROLL
        for (int i = 0; i < kLaneOutputs; ++i) weight[i] *= grid[a].scale;
      }
      FLRC_UNROLL
      for (int column = 0; column < kColumns; ++column) {
        const float in = t[j * kColumns + column];
        FLRC_UNROLL
        for (int i = 0; i < kLaneOutputs; ++i) sum[i][column] = fusedMultiplyAdd(weight[i], in, sum[i][column]);
      }
    }
  }
}

// One unit of a job: its outputs from all its ranks.
template <Dtype kType, int kColumns>
FLRC_DEVICE void unitOutputs(const LinearsParams& p, const Areas& areas, const PanelJob& job, int unit,
                             int staged, Shared<const uint8_t> stagedUnit, int& loaded) {
  const int tileRanks = p.xFloats / kColumns, lane = laneIndex();
  float sum[kLaneOutputs][kColumns] = {};
  for (int first = 0; first < job.rank; first += tileRanks) {
    const int count = job.rank - first < tileRanks ? job.rank - first : tileRanks;
    if (first > 0) syncBlock();
    if (loaded != job.t + first) {
      for (int i = threadIndex(); i < count * kColumns; i += kThreads) {
        const int rank = i / kColumns, column = i % kColumns;
        areas.x[i] =
            column < p.columns ? p.t[static_cast<int64_t>(column) * p.tWidth + job.t + first + rank] : 0.0f;
      }
      loaded = job.t + first;
    }
    syncBlock();
    addRanks<kType, kColumns>(job, unit, first, count, staged, stagedUnit, areas.x, sum);
  }
  FLRC_UNROLL
  for (int i = 0; i < kLaneOutputs; ++i) {
    FLRC_UNROLL
    for (int column = 0; column < kColumns; ++column) {
      float total = sum[i][column];
      FLRC_UNROLL
      for (int mask = kUnitLanes; mask < 32; mask *= 2) total += shuffleXor(total, mask);
      if (lane < kUnitLanes) {
        areas.partial[(warpIndex() * kUnit + lane * kLaneOutputs + i) * kColumns + column] = total;
      }
    }
  }
  syncBlock();
  for (int i = threadIndex(); i < kUnit * kColumns; i += kThreads) {
    const int index = unit * kUnit + i / kColumns, column = i % kColumns;
    if (index >= job.width || column >= p.columns) continue;
    float total = 0;
    for (int w = 0; w < kWarps; ++w) total += areas.partial[w * kUnit * kColumns + i];
    if (job.u >= 0) {
      p.u[static_cast<int64_t>(column) * p.uWidth + job.u + index] = total;
      continue;
    }
    const int output = job.scatter != nullptr ? job.scatter[index] : index;
    const float bias = job.bias != nullptr ? job.bias[output] : 0.0f;
    job.y[static_cast<int64_t>(column) * job.outputs + output] = total + bias;
  }
}

FLRC_DEVICE void gatherOutputs(const LinearsParams& p, const GatherJob& job) {
  for (int i = blockX() * kThreads + threadIndex(); i < job.outputs * p.columns; i += gridX() * kThreads) {
    const int64_t column = i / job.outputs, output = i % job.outputs;
    float total = job.bias != nullptr ? job.bias[output] : 0.0f;
    for (int b = 0; b < job.blocks; ++b) {
      const int at = job.gather[b][output];
      total += at < job.rank[b] ? p.t[column * p.tWidth + job.t[b] + at]
                                : p.u[column * p.uWidth + job.u[b] + at - job.rank[b]];
    }
    job.y[column * job.outputs + output] = total;
  }
}

template <Dtype kType, int kColumns, bool kBulk>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kThreads, 1) linearsKernel(FLRC_PARAMS(LinearsParams) p) {
  const Areas areas = areasOf<kColumns>(p);
  const int64_t rows = allRows(p);
  const int begin = static_cast<int>(rows * blockX() / gridX()),
            end = static_cast<int>(rows * (blockX() + 1) / gridX());
  dependentTrigger();
  Staging<kBulk>::init(areas.phases, 2);
  const int staged = stageWeights<kType, kBulk>(p, areas, begin, end);
  dependentWait();

  Staging<kBulk>(areas.phases, 0).template wait<1>();
  int loaded = -1;
  for (int first = begin; first < end; first += kPassRows) {
    const int count = end - first < kPassRows ? end - first : kPassRows;
    rowPass<kType, kColumns>(p, areas, first, count, begin, staged, loaded);
  }
  Staging<kBulk>(areas.phases, 1).template wait<0>();
  if (p.panelJobs == 0 && p.gatherJobs == 0) return;

  gridBarrier(p.counter);
  loaded = -1;
  int bytes = 0;
  forUnits(p, [&](int j, int unit) {
    const PanelJob& job = p.panels[j];
    const int ranks = stagedRanks<kType>(p, job, bytes);
    unitOutputs<kType, kColumns>(p, areas, job, unit, ranks, areas.stagedPanels + bytes, loaded);
    bytes += ranks * static_cast<int>(groupBytes(kType));
  });
  if (p.gatherJobs == 0) return;

  gridBarrier(p.counter);
  for (int g = 0; g < p.gatherJobs; ++g) gatherOutputs(p, p.gathers[g]);
}

template <Dtype kType, int kColumns>
void launchFor(Stream stream, LinearsParams params, const LinearsLaunch& how) {
  constexpr int kTile = kColumns * kSegment;
  int longest = params.stride;
  for (int j = 0; j < params.panelJobs; ++j) longest = std::max(longest, params.panels[j].rank);
  params.xFloats = std::min(kMostXFloats, kColumns * (longest + kSegment - 1) / kSegment * kSegment);
  params.xFloats = std::max(kTile, params.xFloats / kTile * kTile);
  // Half for each phase; what a block has no rows or panels for stays empty.
  const int half = params.panelJobs > 0 ? how.stagedBytes / 2 / 16 * 16 : how.stagedBytes / 16 * 16;
  params.stagedRowBytes = half;
  params.stagedPanelBytes = params.panelJobs > 0 ? half : 0;

  LaunchShape shape;
  shape.gridX = static_cast<unsigned>(how.blocks);
  shape.threads = kThreads;
  shape.cooperative = params.panelJobs > 0 || params.gatherJobs > 0;
  shape.dependent = how.dependent;
  shape.sharedBytes =
      kPhaseBytes + static_cast<size_t>(params.stagedRowBytes) + static_cast<size_t>(params.stagedPanelBytes) +
      sizeof(float) *
          static_cast<size_t>(params.xFloats + partialFloats(params.xFloats, kColumns) + kPassRows * kColumns);
  if (how.bulk) {
    launch(stream, shape, linearsKernel<kType, kColumns, true>, params);
  } else {
    launch(stream, shape, linearsKernel<kType, kColumns, false>, params);
  }
}

template <Dtype kType>
void launchOf(Stream stream, const LinearsParams& params, const LinearsLaunch& how) {
  if (params.columns == 1) {
    launchFor<kType, 1>(stream, params, how);
  } else if (params.columns <= 4) {
    launchFor<kType, 4>(stream, params, how);
  } else {
    launchFor<kType, kMaxColumns>(stream, params, how);
  }
}

}  // namespace

void launchLinears(Stream stream, Dtype dtype, const LinearsParams& params, const LinearsLaunch& how) {
  switch (dtype) {
    case Dtype::bf16:
      return launchOf<Dtype::bf16>(stream, params, how);
    case Dtype::int8:
      return launchOf<Dtype::int8>(stream, params, how);
    case Dtype::int4:
      return launchOf<Dtype::int4>(stream, params, how);
    case Dtype::f32:
      throw std::invalid_argument(
          "f32 weights are not for the GPU: they are narrowed to bf16 when a model is loaded");
  }
}

}  // namespace flrc::gpu
