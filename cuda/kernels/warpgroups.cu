#include <algorithm>
#include <stdexcept>

#include "kernels/scores.cuh"
#include "kernels/warp.cuh"
#include "kernels/warpgroups.h"

namespace flrc::gpu {
namespace {

// A block makes kRows x kColumns of a product at a time: two warpgroups multiply, 64 rows each, and of a third
// one thread fetches boxes ahead of them, through all tiles that are the block's without a pause.
constexpr int kRows = 128;
constexpr int kWarpgroup = 128;
constexpr int kMultiplying = 2;
constexpr int kThreads = (kMultiplying + 1) * kWarpgroup;
// Threads of the third warpgroup that fetch weights.
constexpr int kFetching = kWarpgroup - 32;
constexpr int kProducerRegisters = 40;
constexpr int kConsumerRegisters = 232;

template <int kColumns, int kStages>
struct Pipeline {
  static constexpr int kLeftBytes = kRows / kBoxWidth * kBoxBytes;
  static constexpr int kStageBytes = kLeftBytes + kColumns / kBoxWidth * kBoxBytes;
  static constexpr size_t kBytes = size_t{kStages} * kStageBytes;

  Shared<uint8_t> stages;
  Shared<uint64_t> full, empty;  // [kStages] each
  int at = 0;
  uint32_t phase = 0;

  FLRC_DEVICE Pipeline(Shared<uint8_t> area, Shared<uint64_t> barriers)
      : stages(area), full(barriers), empty(barriers + kStages) {}

  FLRC_DEVICE void init() const {
    for (int i = 0; i < kStages; ++i) {
      phaseInit(full + i, 1);
      phaseInit(empty + i, kMultiplying);
    }
  }
  FLRC_DEVICE void advance() {
    if (++at < kStages) return;
    at = 0;
    phase ^= 1;
  }

  // Tokens of one sequence, by one thread.
  FLRC_DEVICE void fetch(const TensorMap& left, const TensorMap& right, int row, int column, int tokens,
                         int sequence) {
    for (int token = 0; token < tokens; token += kBoxRows, advance()) {
      phaseWait(empty + at, phase ^ 1);
      phaseExpect(full + at, kStageBytes);
      const Shared<uint8_t> to = stages + at * kStageBytes;
      for (int i = 0; i < kRows / kBoxWidth; ++i)
        copyBox(to + i * kBoxBytes, left, row + i * kBoxWidth, token, sequence, full + at);
      for (int i = 0; i < kColumns / kBoxWidth; ++i) {
        copyBox(to + kLeftBytes + i * kBoxBytes, right, column + i * kBoxWidth, token, sequence, full + at);
      }
    }
  }

  // sums [64, kColumns] of a warpgroup over these tokens.
  FLRC_DEVICE void multiply(int tokens, float (&sums)[kColumns / 2]) {
    const int warpgroup = threadIndex() / kWarpgroup;
    int before = -1;
    for (int token = 0; token < tokens; token += kBoxRows, advance()) {
      phaseWait(full + at, phase);
      const Shared<const uint8_t> stage = stages + at * kStageBytes;
      multiplyBoxes<kColumns>(sums, stage + warpgroup * kBoxBytes, stage + kLeftBytes, token > 0);
      waitProducts<1>(sums);
      release(before);
      before = at;
    }
    waitProducts<0>(sums);
    release(before);
  }

 private:
  FLRC_DEVICE void release(int stage) const {
    if (stage >= 0 && threadIndex() % kWarpgroup == 0) phaseArrive(empty + stage);
  }
};

// The tiles of a product and of each the parts its sequences are taken in: a unit of a block's work.
struct Units {
  int rows, tiles, parts, sequences;  // rows of tiles

  FLRC_DEVICE int count() const { return tiles * parts; }
  FLRC_DEVICE int tile(int unit) const { return unit / parts; }
  FLRC_DEVICE int firstOf(int unit) const { return unit % parts * sequences / parts; }
  FLRC_DEVICE int endOf(int unit) const { return (unit % parts + 1) * sequences / parts; }
};

constexpr int kScoreColumns = 256;
constexpr int kScoreStages = 3;
using ScorePipeline = Pipeline<kScoreColumns, kScoreStages>;

struct WarpgroupFisherParams {
  TensorMap g, x;
  FisherParams fisher;
  Units units;
};

template <Dtype kType>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kThreads, 1) scoreKernel(FLRC_PARAMS(WarpgroupFisherParams) p) {
  using Weights = WeightTile<kType, kRows, kScoreColumns>;
  const Shared<uint8_t> weights = sharedMemory<uint8_t>(ScorePipeline::kBytes);
  const Shared<uint64_t> barriers = sharedMemory<uint64_t>(ScorePipeline::kBytes + Weights::kBytes);
  ScorePipeline pipeline(sharedMemory<uint8_t>(0), barriers);
  const Shared<uint64_t> weightsFull = barriers + 2 * kScoreStages, weightsEmpty = weightsFull + 1;
  if (threadIndex() == 0) {
    pipeline.init();
    phaseInit(weightsFull, kFetching);
    phaseInit(weightsEmpty, kMultiplying);
  }
  syncBlock();
  const int tokens = p.fisher.passage.tokens;
  const auto rowOf = [&](int unit) { return p.units.tile(unit) % p.units.rows * kRows; };
  const auto columnOf = [&](int unit) { return p.units.tile(unit) / p.units.rows * kScoreColumns; };
  uint32_t phase = 0;
  if (threadIndex() / kWarpgroup == kMultiplying) {
    leaveRegisters<kProducerRegisters>();
    const int thread = threadIndex() % kWarpgroup;
    for (int unit = blockX(); thread == 0 && unit < p.units.count(); unit += gridX()) {
      for (int sequence = p.units.firstOf(unit); sequence < p.units.endOf(unit); ++sequence)
        pipeline.fetch(p.g, p.x, rowOf(unit), columnOf(unit), tokens, sequence);
    }
    for (int unit = blockX(); thread >= 32 && unit < p.units.count(); unit += gridX(), phase ^= 1) {
      phaseWait(weightsEmpty, phase ^ 1);
      Weights::fetch(p.fisher, rowOf(unit), columnOf(unit), weights, thread - 32, kFetching);
      phaseArrive(weightsFull);
    }
  } else {
    takeRegisters<kConsumerRegisters>();
    float sums[kScoreColumns / 2];
    const int row = warpIndex() * 16;
    for (int unit = blockX(); unit < p.units.count(); unit += gridX(), phase ^= 1) {
      ScoreSums<kType, kRows, kScoreColumns> score;
      for (int sequence = p.units.firstOf(unit); sequence < p.units.endOf(unit); ++sequence) {
        pipeline.multiply(tokens, sums);
        if (sequence == p.units.firstOf(unit)) phaseWait(weightsFull, phase);
        FLRC_UNROLL
        for (int column = 0; column < kScoreColumns; column += 32) {
          float scale[2];
          score.scaleAt(p.fisher, rowOf(unit) + row, columnOf(unit) + column, scale);
          score.add(sums + column / 2, weights, row, column, scale);
        }
      }
      syncWarpgroup();
      if (threadIndex() % kWarpgroup == 0) phaseArrive(weightsEmpty);
      const double all[3] = {warpSum(score.products), warpSum(score.squares), warpSum(score.sizes)};
      const int64_t part = static_cast<int64_t>(unit) * (kMultiplying * 4) + warpIndex();
      for (int i = 0; laneIndex() == 0 && i < 3; ++i) p.fisher.partial[part * 3 + i] = all[i];
    }
  }
}

Units unitsOf(const FisherParams& params) {
  const int rows = (params.g.width + kRows - 1) / kRows,
            columns = (params.x.width + kScoreColumns - 1) / kScoreColumns;
  // Of few tiles, each sequence is a unit of its own. By a number that is the same on every chip.
  constexpr int kManyTiles = 96;
  return {rows, rows * columns, rows * columns < kManyTiles ? params.passage.sequences : 1,
          params.passage.sequences};
}

TensorMap mapOf(const Activations& of, const Passage& passage) {
  return tensorMapOf(of.data, of.ld, of.width, passage.tokens, passage.sequences);
}

template <Dtype kType>
void launchScores(Stream stream, const FisherParams& params, int blocks) {
  using Weights = WeightTile<kType, kRows, kScoreColumns>;
  const Units units = unitsOf(params);
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>(std::min(blocks, units.tiles * units.parts));
  shape.threads = kThreads;
  shape.sharedBytes = ScorePipeline::kBytes + Weights::kBytes + (2 * kScoreStages + 2) * sizeof(uint64_t);
  launch(
      stream, shape, scoreKernel<kType>,
      WarpgroupFisherParams{mapOf(params.g, params.passage), mapOf(params.x, params.passage), params, units});
}

constexpr int kMomentColumns = 128;
constexpr int kMomentStages = 6;
using MomentPipeline = Pipeline<kMomentColumns, kMomentStages>;

struct WarpgroupMomentParams {
  TensorMap x, low;
  MomentParams moment;
  int tiles;
};

FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kThreads, 1) momentKernel(FLRC_PARAMS(WarpgroupMomentParams) p) {
  MomentPipeline pipeline(sharedMemory<uint8_t>(0), sharedMemory<uint64_t>(MomentPipeline::kBytes));
  if (threadIndex() == 0) pipeline.init();
  syncBlock();
  const Passage passage = p.moment.passage;
  // Of two halves, each with each.
  const int products = p.moment.low != nullptr ? 4 : 1;
  // Tiles of the lower triangle, row by row.
  int tileRow = 0, tileColumn = blockX();
  const auto find = [&] {
    for (; tileColumn > tileRow; ++tileRow) tileColumn -= tileRow + 1;
  };
  if (threadIndex() / kWarpgroup == kMultiplying) {
    leaveRegisters<kProducerRegisters>();
    for (int tile = blockX(); threadIndex() % kWarpgroup == 0 && tile < p.tiles;
         tile += gridX(), tileColumn += gridX()) {
      find();
      for (int sequence = 0; sequence < passage.sequences; ++sequence) {
        for (int product = 0; product < products; ++product) {
          pipeline.fetch(product / 2 ? p.low : p.x, product % 2 ? p.low : p.x, tileRow * kRows,
                         tileColumn * kMomentColumns, passage.tokens, sequence);
        }
      }
    }
  } else {
    takeRegisters<kConsumerRegisters>();
    constexpr int kSums = kMomentColumns / 2;
    float sums[kSums];
    for (int tile = blockX(); tile < p.tiles; tile += gridX(), tileColumn += gridX()) {
      find();
      // What products add up to, and what rounding left of it: together as good as fp64, of which there is
      // little.
      float high[kSums], low[kSums];
      FLRC_UNROLL
      for (int i = 0; i < kSums; ++i) high[i] = low[i] = 0;
      for (int product = 0; product < products * passage.sequences; ++product) {
        pipeline.multiply(passage.tokens, sums);
        FLRC_UNROLL
        for (int i = 0; i < kSums; ++i) {
          // Knuth's sum of two.
          const float sum = high[i] + sums[i], second = sum - high[i];
          low[i] += (high[i] - (sum - second)) + (sums[i] - second);
          high[i] = sum;
        }
      }
      const int firstRow = tileRow * kRows + warpIndex() * 16 + laneIndex() / 4,
                firstColumn = tileColumn * kMomentColumns + laneIndex() % 4 * 2;
      const auto placeOf = [&](int i) {
        const int64_t r = firstRow + i / 2 % 2 * 8, c = firstColumn + i / 4 * 8 + i % 2;
        return r < p.moment.x.width && c <= r ? p.moment.sum + (r * (r + 1) / 2 + c) : nullptr;
      };
      FLRC_UNROLL
      for (int i = 0; i < kSums; i += 8) {
        // Read together, or each value would wait for memory by itself.
        double before[8];
        FLRC_UNROLL
        for (int e = 0; e < 8; ++e) {
          const Global<double> place = placeOf(i + e);
          before[e] = place != nullptr ? static_cast<double>(*place) : 0.0;
        }
        FLRC_UNROLL
        for (int e = 0; e < 8; ++e) {
          const Global<double> place = placeOf(i + e);
          if (place != nullptr)
            *place = before[e] + (static_cast<double>(high[i + e]) + static_cast<double>(low[i + e]));
        }
      }
    }
  }
}

}  // namespace

int warpgroupFisherParts(const FisherParams& params) {
  const Units units = unitsOf(params);
  return units.tiles * units.parts * kMultiplying * 4;
}

void launchWarpgroupFisher(Stream stream, Dtype dtype, const FisherParams& params, int blocks) {
  switch (dtype) {
    case Dtype::bf16:
      return launchScores<Dtype::bf16>(stream, params, blocks);
    case Dtype::int8:
      return launchScores<Dtype::int8>(stream, params, blocks);
    case Dtype::int4:
      return launchScores<Dtype::int4>(stream, params, blocks);
    case Dtype::f32:
      throw std::invalid_argument(
          "f32 weights are not for the GPU: they are narrowed to bf16 when a model is loaded");
  }
}

void launchWarpgroupMoment(Stream stream, const MomentParams& params, int blocks) {
  const int lines = (params.x.width + kRows - 1) / kRows, tiles = lines * (lines + 1) / 2;
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>(std::min(blocks, tiles));
  shape.threads = kThreads;
  shape.sharedBytes = MomentPipeline::kBytes + 2 * kMomentStages * sizeof(uint64_t);
  const TensorMap x = mapOf(params.x, params.passage);
  const TensorMap low =
      params.low != nullptr ? mapOf({params.low, params.x.ld, params.x.width}, params.passage) : x;
  launch(stream, shape, momentKernel, WarpgroupMomentParams{x, low, params, tiles});
}

}  // namespace flrc::gpu
