#include <stdexcept>

#include "kernels/scores.cuh"
#include "kernels/warp.cuh"
#include "kernels/warpgroup_pipeline.cuh"
#include "kernels/warpgroups.h"

namespace flrc::gpu {
namespace {

using namespace warpgroups;

constexpr int kScoreColumns = 256;
constexpr int kScoreStages = 9;
constexpr Registers kScoreRegisters{24, 240};
// So many stages are behind the first warpgroup when the second one begins: while one does what the sums are
// for, the other has the tensor cores. The rest of the stages is for boxes on their way.
constexpr int kLag = 5;
using ScorePipeline = Pipeline<SummedRows<kScoreColumns>, kScoreStages, kLag>;

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
using MomentPipeline = Pipeline<SummedRows<kMomentColumns>, kMomentStages, kLag>;

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
