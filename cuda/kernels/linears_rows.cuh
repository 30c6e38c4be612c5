#pragma once

#include "kernels/linears_shares.cuh"
#include "kernels/warp.cuh"

// The first phase of kernels/linears.cu: rows times x.

namespace flrc::gpu::linears {

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
                            float (&sum)[kRows * kColumns]) {
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
              float& total = sum[r * kColumns + column];
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
template <Dtype kType, int kColumns, bool kBulk>
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
    // From behind: the first rows may still be on their way to shared memory, and those behind them are fetched
    // here.
    for (int i = groups * count - 1 - warpIndex(); i >= 0; i -= kWarps) {
      const int row = i / count * kRows, segment = i % count;
      Item item;
      item.row = begin + row;
      item.rows = rows - row < kRows ? rows - row : kRows;
      item.segment = tile + segment;
      item.tileChunk = segment * Chunk<kType>::kInSegment;
      item.tileChunks = count * Chunk<kType>::kInSegment;
      item.staged = staged;
      item.begin = blockBegin;
      if constexpr (kBulk) {
        if (item.row - blockBegin < staged) Staging<kBulk>(areas.phases, 0).template wait<1>();
      }
      float sum[kRows * kColumns] = {};
      addSegment<kType, kColumns, kRows>(p, areas, item, sum);
      constexpr int kSums = kRows * kColumns, kLaneSums = kSums < 32 ? 1 : kSums / 32;
      foldWarp<16, 1, kSums>(sum);
      // Fewer sums than lanes: several lanes have each, the first of which writes it.
      constexpr int kCopies = kSums < 32 ? 32 / kSums : 1;
      FLRC_UNROLL
      for (int s = 0; s < kLaneSums; ++s) {
        const int index = laneIndex() / kCopies * kLaneSums + s, r = index / kColumns;
        if (laneIndex() % kCopies == 0 && r < item.rows) {
          areas.partial[((row + r) * count + segment) * kColumns + index % kColumns] = sum[s];
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

}  // namespace flrc::gpu::linears
