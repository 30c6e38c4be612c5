#pragma once

#include "kernels/linears_shares.cuh"
#include "kernels/warp.cuh"

// The second phase of kernels/linears.cu: units of panels times t, and the gathering of outputs.

namespace flrc::gpu::linears {

// Adds ranks [first, first + count) of a unit; t of these ranks is in shared memory, [rank][kColumns].
template <Dtype kType, int kColumns>
FLRC_DEVICE void addRanks(const PanelJob& job, int unit, int first, int count, int staged,
                          Shared<const uint8_t> stagedUnit, Shared<const float> t,
                          float (&sum)[kLaneOutputs * kColumns]) {
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
        for (int i = 0; i < kLaneOutputs; ++i)
          sum[i * kColumns + column] = fusedMultiplyAdd(weight[i], in, sum[i * kColumns + column]);
      }
    }
  }
}

// One unit of a job: its outputs from all its ranks.
template <Dtype kType, int kColumns>
FLRC_DEVICE void unitOutputs(const LinearsParams& p, const Areas& areas, const PanelJob& job, int unit,
                             int staged, Shared<const uint8_t> stagedUnit, int& loaded) {
  const int tileRanks = p.xFloats / kColumns, lane = laneIndex();
  float sum[kLaneOutputs * kColumns] = {};
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
  // Lanes with the same outputs have different ranks.
  constexpr int kSums = kLaneOutputs * kColumns, kLaneSums = kSums * kUnitLanes / 32;
  foldWarp<16, kUnitLanes, kSums>(sum);
  FLRC_UNROLL
  for (int s = 0; s < kLaneSums; ++s) {
    const int index = lane / kUnitLanes * kLaneSums + s;
    const int output = lane % kUnitLanes * kLaneOutputs + index / kColumns;
    areas.partial[(warpIndex() * kUnit + output) * kColumns + index % kColumns] = sum[s];
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

}  // namespace flrc::gpu::linears
