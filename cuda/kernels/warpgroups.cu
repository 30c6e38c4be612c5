#include <algorithm>
#include <stdexcept>

#include "kernels/scores.cuh"
#include "kernels/warp.cuh"
#include "kernels/warpgroups.h"

namespace flrc::gpu {
namespace {

// A block makes kRows x kColumns of a product at a time: two warpgroups multiply, 64 rows each, and of a third
// one thread fetches boxes ahead of them, through all tiles that are the block's without a pause. Blocks are in
// clusters of two, whose tiles lie one below the other: each fetches half of the columns' boxes for both.
constexpr int kRows = 128;
constexpr int kCluster = 2;
constexpr int kWarpgroup = 128;
constexpr int kMultiplying = 2;
constexpr int kThreads = (kMultiplying + 1) * kWarpgroup;

// What a kernel's threads have of registers, when those that fetch have left theirs to those that multiply.
struct Registers {
  int fetching, multiplying;
};

FLRC_DEVICE int clusterIndex() { return blockX() / kCluster; }
FLRC_DEVICE int clusters() { return gridX() / kCluster; }

template <int kColumns, int kStages>
struct Pipeline {
  static constexpr int kLeftBoxes = kRows / kBoxWidth, kRightBoxes = kColumns / kBoxWidth;
  static constexpr int kStageBytes = (kLeftBoxes + kRightBoxes) * kBoxBytes;
  static constexpr size_t kBarriers = size_t{kStages} * kStageBytes;
  static constexpr size_t kBytes = kBarriers + (2 * kStages + 1) * sizeof(uint64_t);
  // So many boxes are behind the first warpgroup when the second one begins: while one does what the sums are
  // for, the other has the tensor cores. The rest of the stages is for boxes on their way.
  static constexpr int kLag = 5;
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

  // The boxes of one sequence, by one thread.
  FLRC_DEVICE void fetch(const TensorMap& left, const TensorMap& right, int row, int column, int boxes,
                         int sequence) {
    constexpr int kShare = kRightBoxes / kCluster;
    const int first = clusterRank() * kShare;
    for (int box = 0; box < boxes; ++box, advance()) {
      const int token = box * kBoxRows;
      phaseWait(empty + at, phase ^ 1);
      phaseExpect(full + at, kStageBytes);
      const Shared<uint8_t> to = stages + at * kStageBytes;
      for (int i = 0; i < kLeftBoxes; ++i)
        copyBox(to + i * kBoxBytes, left, row + i * kBoxWidth, token, sequence, full + at);
      for (int i = first; i < first + kShare; ++i) {
        multicastBox(to + (kLeftBoxes + i) * kBoxBytes, right, column + i * kBoxWidth, token, sequence,
                     full + at, (1 << kCluster) - 1);
      }
    }
  }

  // sums [64, kColumns] of a warpgroup over these boxes.
  FLRC_DEVICE void multiply(int boxes, float (&sums)[kColumns / 2]) {
    const int warpgroup = threadIndex() / kWarpgroup;
    // The second one must see every phase of `ahead`: before the first can end the next, it needs a place that
    // the second has given back since this one.
    const bool apart = boxes > kLag && boxes + kLag >= kStages;
    if (apart && warpgroup > 0) phaseWait(ahead, aheadPhase);
    aheadPhase ^= 1;
    int before = -1;
    for (int box = 0; box < boxes; ++box, advance()) {
      phaseWait(full + at, phase);
      const Shared<const uint8_t> stage = stages + at * kStageBytes;
      multiplyBoxes<kColumns>(sums, stage + warpgroup * kBoxBytes, stage + kLeftBoxes * kBoxBytes, box > 0);
      waitProducts<1>(sums);
      release(before);
      before = at;
      if (apart && box == kLag && threadIndex() == 0) phaseArrive(ahead);
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

constexpr int kScoreColumns = 256;
constexpr int kScoreStages = 9;
constexpr Registers kScoreRegisters{24, 240};
using ScorePipeline = Pipeline<kScoreColumns, kScoreStages>;

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

struct WarpgroupFisherParams {
  TensorMap g, x;
  FisherParams fisher;
  Units units;
  int boxes;  // of a sequence
};

template <Dtype kType>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kThreads, 1) scoreKernel(FLRC_PARAMS(WarpgroupFisherParams) p) {
  ScorePipeline pipeline;
  if (threadIndex() / kWarpgroup == kMultiplying) {
    leaveRegisters<kScoreRegisters.fetching>();
    for (int i = clusterIndex(); threadIndex() % kWarpgroup == 0 && i < p.units.count(); i += clusters()) {
      const Units::Unit unit = p.units.at(i);
      for (int sequence = unit.first; sequence < unit.end; ++sequence)
        pipeline.fetch(p.g, p.x, unit.row * kRows, unit.column * kScoreColumns, p.boxes, sequence);
    }
  } else {
    takeRegisters<kScoreRegisters.multiplying>();
    float sums[kScoreColumns / 2];
    for (int i = clusterIndex(); i < p.units.count(); i += clusters()) {
      const Units::Unit unit = p.units.at(i);
      const int row = unit.row * kRows + warpIndex() * 16, column = unit.column * kScoreColumns;
      // There when the first sequence has been multiplied.
      WeightFragments<kType, kScoreColumns> weights;
      weights.load(p.fisher, row, column);
      ScoreSums<kType> score;
      for (int sequence = unit.first; sequence < unit.end; ++sequence) {
        pipeline.multiply(p.boxes, sums);
        FLRC_UNROLL
        for (int group = 0; group < kScoreColumns; group += kUnit) {
          float scale[2];
          weightScales<kType>(p.fisher, row, column + group, scale);
          FLRC_UNROLL
          for (int c = group; c < group + kUnit; c += 16) score.add(sums + c / 2, weights.pairs + c / 4, scale);
        }
      }
      const double all[3] = {warpSum(score.products), warpSum(score.squares), warpSum(score.sizes)};
      const int64_t tile = (int64_t{unit.column} * p.units.rows + unit.row) * p.units.parts + unit.part;
      if (laneIndex() == 0 && unit.row < p.units.rows) {
        for (int k = 0; k < 3; ++k)
          p.fisher.partial[(tile * (kMultiplying * 4) + warpIndex()) * 3 + k] = all[k];
      }
    }
  }
  pipeline.leave();
}

Units unitsOf(const FisherParams& params) {
  const int rows = (params.g.width + kRows - 1) / kRows,
            columns = (params.x.width + kScoreColumns - 1) / kScoreColumns;
  // Of few tiles, each sequence is a unit of its own. By a number that is the same on every chip.
  constexpr int kManyTiles = 96;
  return {rows, columns, rows * columns < kManyTiles ? params.passage.sequences : 1, params.passage.sequences};
}

TensorMap mapOf(const Activations& of, const Passage& passage) {
  return tensorMapOf(of.data, of.ld, of.width, passage.tokens, passage.sequences);
}

// Of a kernel whose clusters share `units` of work. None of them waits for another one: that they all run at
// once saves time, and is needed for nothing.
template <typename Params>
void launchClusters(Stream stream, void (*kernel)(Params), const Params& params, size_t sharedBytes, int units,
                    int blocks) {
  LaunchShape shape;
  shape.threads = kThreads;
  shape.sharedBytes = sharedBytes;
  shape.gridX = shape.cluster = kCluster;
  const int most = std::min({units, blocks / kCluster, clustersAtOnce(kernel, shape)});
  shape.gridX = static_cast<unsigned>(std::max(most, 1) * kCluster);
  launch(stream, shape, kernel, params);
}

int boxesOf(const Passage& passage) { return (passage.tokens + kBoxRows - 1) / kBoxRows; }

template <Dtype kType>
void launchScores(Stream stream, const FisherParams& params, int blocks) {
  const Units units = unitsOf(params);
  launchClusters(stream, scoreKernel<kType>,
                 WarpgroupFisherParams{mapOf(params.g, params.passage), mapOf(params.x, params.passage), params,
                                       units, boxesOf(params.passage)},
                 ScorePipeline::kBytes, units.count(), blocks);
}

constexpr int kMomentColumns = 128;
constexpr int kMomentStages = 13;
constexpr Registers kMomentRegisters{40, 232};
using MomentPipeline = Pipeline<kMomentColumns, kMomentStages>;

struct WarpgroupMomentParams {
  TensorMap x, low;
  MomentParams moment;
  int lines;  // of tiles
  int boxes;  // of a sequence, of one product
};

// The lower triangle's tiles, two in a column at a time, pair of lines by pair of lines. The second of two may
// lie above the diagonal or below the matrix.
struct Triangle {
  int lines, pair, column;

  FLRC_ANYWHERE int columns() const {
    const int all = (pair + 1) * kCluster;
    return all < lines ? all : lines;
  }
  FLRC_ANYWHERE bool find() {
    for (; pair * kCluster < lines && column >= columns(); ++pair) column -= columns();
    return pair * kCluster < lines;
  }
};

FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kThreads, 1) momentKernel(FLRC_PARAMS(WarpgroupMomentParams) p) {
  MomentPipeline pipeline;
  const int sequences = p.moment.passage.sequences;
  // Of two halves, each with each; the smallest first, whose sums lose the least by rounding.
  constexpr int kProducts = 4;
  const int firstProduct = p.moment.low != nullptr ? 0 : kProducts - 1;
  Triangle tile{p.lines, 0, clusterIndex()};
  const auto rowOf = [&] { return (tile.pair * kCluster + clusterRank()) * kRows; };
  if (threadIndex() / kWarpgroup == kMultiplying) {
    leaveRegisters<kMomentRegisters.fetching>();
    for (; threadIndex() % kWarpgroup == 0 && tile.find(); tile.column += clusters()) {
      for (int sequence = 0; sequence < sequences; ++sequence) {
        for (int product = firstProduct; product < kProducts; ++product) {
          pipeline.fetch(product / 2 ? p.x : p.low, product % 2 ? p.x : p.low, rowOf(),
                         tile.column * kMomentColumns, p.boxes, sequence);
        }
      }
    }
  } else {
    takeRegisters<kMomentRegisters.multiplying>();
    constexpr int kSums = kMomentColumns / 2;
    float sums[kSums];
    for (; tile.find(); tile.column += clusters()) {
      double totals[kSums] = {};
      for (int sequence = 0; sequence < sequences; ++sequence) {
        pipeline.multiply((kProducts - firstProduct) * p.boxes, sums);
        FLRC_UNROLL
        for (int i = 0; i < kSums; ++i) totals[i] += static_cast<double>(sums[i]);
      }
      const int firstColumn = tile.column * kMomentColumns + laneIndex() % 4 * 2;
      FLRC_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int64_t row = rowOf() + warpIndex() * 16 + laneIndex() / 4 + half * 8;
        const Global<double> line = p.moment.sum + (row * (row + 1) / 2 + firstColumn);
        const int64_t last = row < p.moment.x.width ? row - firstColumn : -1;
        FLRC_UNROLL
        for (int first = 0; first < kMomentColumns / 4; first += 8) {
          // Read together, or each value would wait for memory by itself.
          double before[8];
          FLRC_UNROLL
          for (int e = 0; e < 8; ++e) {
            const int i = first + e, column = i / 2 * 8 + i % 2;
            before[e] = column <= last ? static_cast<double>(line[column]) : 0.0;
          }
          FLRC_UNROLL
          for (int e = 0; e < 8; ++e) {
            const int i = first + e, column = i / 2 * 8 + i % 2, at = i / 2 * 4 + half * 2 + i % 2;
            if (column <= last) line[column] = before[e] + totals[at];
          }
        }
      }
    }
  }
  pipeline.leave();
}

}  // namespace

int warpgroupFisherParts(const FisherParams& params) {
  const Units units = unitsOf(params);
  return units.rows * units.columns * units.parts * kMultiplying * 4;
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
  const TensorMap x = mapOf(params.x, params.passage);
  const TensorMap low =
      params.low != nullptr ? mapOf({params.low, params.x.ld, params.x.width}, params.passage) : x;
  const int lines = (params.x.width + kRows - 1) / kRows;
  int pairs = 0;
  for (Triangle tile{lines, 0, 0}; tile.pair * kCluster < lines; ++tile.pair) pairs += tile.columns();
  launchClusters(stream, momentKernel, WarpgroupMomentParams{x, low, params, lines, boxesOf(params.passage)},
                 MomentPipeline::kBytes, pairs, blocks);
}

}  // namespace flrc::gpu
