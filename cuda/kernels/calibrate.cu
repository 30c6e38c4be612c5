#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels/calibrate.h"
#include "kernels/octets.cuh"
#include "kernels/scores.cuh"
#include "kernels/tiles.cuh"
#include "kernels/warpgroups.h"

namespace flrc::gpu {
namespace {

constexpr int kThreads = kTileThreads;
constexpr int kWarps = kThreads / 32;

unsigned tiles(int width) { return static_cast<unsigned>((width + kTile - 1) / kTile); }

LaunchShape tileShape(unsigned x, unsigned y, unsigned z, size_t sharedBytes) {
  LaunchShape shape;
  shape.gridX = x;
  shape.gridY = y;
  shape.gridZ = z;
  shape.threads = kTileThreads;
  shape.sharedBytes = sharedBytes;
  return shape;
}

// The activations of one sequence, tokens to be summed over.
FLRC_DEVICE Operand operandOf(const Activations& from, const Passage& passage, int sequence) {
  return {from.data + static_cast<int64_t>(sequence) * passage.tokens * from.ld, from.ld, from.width,
          passage.tokens};
}

template <Dtype kType>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kTileThreads, 2) fisherKernel(FLRC_PARAMS(FisherParams) p) {
  const int row = blockY() * kTile, column = blockX() * kTile;
  const Shared<uint8_t> weights = sharedMemory<uint8_t>(kTileBytes<false>);
  // There for everybody behind the product's first barrier.
  WeightTile<kType, kTile, kTile>::fetch(p, row, column, weights, threadIndex(), kThreads);
  TileSums gradient;
  multiplyTile<false>(operandOf(p.g, p.passage, blockZ()), operandOf(p.x, p.passage, blockZ()), row, column,
                      gradient);
  ScoreSums<kType> score;
  const int firstRow = warpIndex() / 4 * kWarpRows, firstColumn = warpIndex() % 4 * kWarpColumns;
  FLRC_UNROLL
  for (int i = 0; i < 4; ++i) {
    float scale[2];
    weightScales<kType>(p, row + firstRow + 16 * i, column + firstColumn, scale);
    FLRC_UNROLL
    for (int j = 0; j < 4; j += 2) {
      uint32_t pairs[4];
      WeightTile<kType, kTile, kTile>::load(weights, firstRow + 16 * i, firstColumn + 8 * j, pairs);
      score.add(gradient.value[i][j], pairs, scale);
    }
  }
  syncBlock();
  const Shared<double> sums = sharedMemory<double>(0);
  const double all[3] = {blockSum(score.products, sums), blockSum(score.squares, sums + kWarps),
                         blockSum(score.sizes, sums + 2 * kWarps)};
  if (threadIndex() > 0) return;
  const int64_t block = (static_cast<int64_t>(blockZ()) * gridY() + blockY()) * gridX() + blockX();
  for (int i = 0; i < 3; ++i) p.partial[block * 3 + i] = all[i];
}

struct FinishParams {
  Global<const double> partial;  // [parts][width]
  int parts, width;
  Global<double> sums;  // [width]
};

// sums += all parts, each sum by one warp in a fixed order.
FLRC_KERNEL void finishKernel(FLRC_PARAMS(FinishParams) p) {
  const int index = blockX() * kWarps + warpIndex();
  if (index >= p.width) return;
  double total = 0;
  for (int part = laneIndex(); part < p.parts; part += 32)
    total += p.partial[static_cast<int64_t>(part) * p.width + index];
  total = warpSum(total);
  if (laneIndex() == 0) p.sums[index] += total;
}

void finish(Stream stream, const FinishParams& params) {
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>((params.width + kWarps - 1) / kWarps);
  shape.threads = kThreads;
  launch(stream, shape, finishKernel, params);
}

// Two fragments at a time: first all is read, or each value would wait for memory by itself.
FLRC_DEVICE void addToTriangle(const MomentParams& p, int row, int column, const TileSums& product) {
  const auto placeOf = [&](int k) {
    const int64_t r = row + TileSums::rowOf(k / 16, k % 4), c = column + TileSums::columnOf(k / 4 % 4, k % 4);
    return r < p.x.width && c <= r ? p.sum + (r * (r + 1) / 2 + c) : nullptr;
  };
  FLRC_UNROLL
  for (int first = 0; first < 64; first += 8) {
    double before[8];
    FLRC_UNROLL
    for (int e = 0; e < 8; ++e) {
      const Global<double> place = placeOf(first + e);
      before[e] = place != nullptr ? static_cast<double>(*place) : 0.0;
    }
    FLRC_UNROLL
    for (int e = 0; e < 8; ++e) {
      const Global<double> place = placeOf(first + e);
      const int k = first + e;
      if (place != nullptr) *place = before[e] + static_cast<double>(product.value[k / 16][k / 4 % 4][k % 4]);
    }
  }
}

FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kTileThreads, 1) momentKernel(FLRC_PARAMS(MomentParams) p) {
  // Tiles of the lower triangle, row by row.
  int tileRow = 0, tileColumn = blockX();
  for (; tileColumn > tileRow; ++tileRow) tileColumn -= tileRow + 1;
  const int row = tileRow * kTile, column = tileColumn * kTile;
  for (int sequence = 0; sequence < p.passage.sequences; ++sequence) {
    if (sequence > 0) syncBlock();
    TileSums product;
    const Operand x = operandOf(p.x, p.passage, sequence);
    multiplyTile<false>(x, x, row, column, product);
    if (p.low != nullptr) {
      const Operand low = operandOf({p.low, p.x.ld, p.x.width}, p.passage, sequence);
      syncBlock();
      multiplyTile<false>(x, low, row, column, product);
      syncBlock();
      multiplyTile<false>(low, x, row, column, product);
      syncBlock();
      multiplyTile<false>(low, low, row, column, product);
    }
    addToTriangle(p, row, column, product);
  }
}

// Of rows of `ld` values, a multiple of 8: an octet to a thread.
struct Octet {
  unsigned index, row;
  int column;

  FLRC_DEVICE explicit Octet(int64_t ld) {
    const auto octets = static_cast<unsigned>(ld / 8);
    index = static_cast<unsigned>(blockX()) * kThreads + static_cast<unsigned>(threadIndex());
    row = index / octets;
    column = static_cast<int>(index % octets) * 8;
  }

  // Values in two halves, or, where there is no place for the second, rounded.
  FLRC_DEVICE void store(const float (&values)[8], Global<uint16_t> high, Global<uint16_t> low) const {
    uint32_t pairs[2][4];
    FLRC_UNROLL
    for (int i = 0; i < 4; ++i) splitPair(values[2 * i], values[2 * i + 1], pairs[0][i], pairs[1][i]);
    pointerCast<Word4>(high)[index] = Word4{pairs[0][0], pairs[0][1], pairs[0][2], pairs[0][3]};
    if (low != nullptr) {
      pointerCast<Word4>(low)[index] = Word4{pairs[1][0], pairs[1][1], pairs[1][2], pairs[1][3]};
    }
  }
};

FLRC_KERNEL void splitKernel(FLRC_PARAMS(SplitParams) p) {
  const Octet octet(p.ld);
  if (octet.row >= static_cast<unsigned>(p.rows)) return;
  float values[8];
  readOctet(p.values + static_cast<int64_t>(octet.row) * p.width, p.width, octet.column, values);
  if (p.factors != nullptr) {
    const float factor = p.factors[octet.row];
    FLRC_UNROLL
    for (int i = 0; i < 8; ++i) values[i] *= factor;
  }
  octet.store(values, p.high, p.low);
}

template <Dtype kType>
FLRC_KERNEL void widenKernel(FLRC_PARAMS(WidenParams) p) {
  const Octet octet(p.ld);
  if (octet.row >= static_cast<unsigned>(p.rows)) return;
  const WeightRow<kType> row(p.data, p.first + static_cast<int64_t>(octet.row), p.width);
  float values[8];
  FLRC_UNROLL
  for (int i = 0; i < 8; ++i) values[i] = octet.column + i < p.width ? row.weight(octet.column + i) : 0.0f;
  octet.store(values, p.high, p.low);
}

template <bool kBack>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kTileThreads, 2) thinProductKernel(FLRC_PARAMS(ThinProductParams) p) {
  const int row = blockY() * kTile, column = blockX() * kTile;
  const auto operand = [&](Global<const uint16_t> half) { return Operand{half, p.ld, p.rows, p.x.width}; };
  const Operand x{p.x.data, p.x.ld, p.tokens, p.x.width};
  TileSums product;
  multiplyTile<true, !kBack>(x, operand(p.high), row, column, product);
  if (p.low != nullptr) {
    syncBlock();
    multiplyTile<true, !kBack>(x, operand(p.low), row, column, product);
  }
  if (p.xLow != nullptr) {
    syncBlock();
    multiplyTile<true, !kBack>({p.xLow, p.x.ld, p.tokens, p.x.width}, operand(p.high), row, column, product);
  }
  product.forEach([&](int i, int j, float value) {
    if (row + i >= p.tokens || column + j >= p.rows) return;
    const Global<float> to = p.out + ((row + i) * p.outLd + column + j);
    *to = p.adds ? *to + value : value;
  });
}

// Each thread has a stretch of ranks; a block takes one token after another and adds to a curve of its own.
FLRC_KERNEL void curveKernel(FLRC_PARAMS(CurveParams) p) {
  const Shared<double> sums = sharedMemory<double>(0);  // [kWarps]
  const Shared<double> curve = sums + kWarps;           // [rank + 1]
  for (int r = threadIndex(); r <= p.rank; r += kThreads) curve[r] = 0;
  syncBlock();
  const int stretch = (p.rank + kThreads - 1) / kThreads, first = threadIndex() * stretch;
  const int end = first + stretch < p.rank ? first + stretch : p.rank;
  for (int t = blockX(); t < p.tokens; t += gridX()) {
    const int64_t token = static_cast<int64_t>(t) * p.rank;
    double own = 0;
    for (int j = first; j < end; ++j)
      own += static_cast<double>(p.u[token + j]) * static_cast<double>(p.v[token + j]);
    // Of the lanes from this one on.
    double from = own;
    FLRC_UNROLL
    for (int step = 1; step < 32; step *= 2) {
      const double next = shuffle(from, laneIndex() + step);
      if (laneIndex() + step < 32) from += next;
    }
    syncBlock();
    if (laneIndex() == 0) sums[warpIndex()] = from;
    syncBlock();
    // What lies behind this thread's ranks; in whole, what lies behind all of them.
    double behind = shuffle(from, laneIndex() + 1), all = 0;
    if (laneIndex() == 31) behind = 0;
    for (int w = kWarps - 1; w >= 0; --w) {
      if (w > warpIndex()) behind += sums[w];
      all += sums[w];
    }
    const double rest = p.whole != nullptr ? static_cast<double>(p.whole[t]) - all : 0.0;
    double cut = rest + behind;
    for (int j = end - 1; j >= first; --j) {
      cut += static_cast<double>(p.u[token + j]) * static_cast<double>(p.v[token + j]);
      curve[j] += 0.5 * cut * cut;
    }
    if (threadIndex() == 0) curve[p.rank] += 0.5 * rest * rest;
  }
  syncBlock();
  for (int r = threadIndex(); r <= p.rank; r += kThreads) {
    p.partial[static_cast<int64_t>(blockX()) * (p.rank + 1) + r] = curve[r];
  }
}

// A warp takes a token.
FLRC_KERNEL void dotsKernel(FLRC_PARAMS(DotParams) p) {
  const int64_t token = blockX() * kWarps + warpIndex();
  if (token >= p.tokens) return;
  float sum = 0;
  for (int i = laneIndex(); i < p.width; i += 32)
    sum = fusedMultiplyAdd(p.g[token * p.width + i], p.y[token * p.width + i], sum);
  sum = warpSum(sum);
  if (laneIndex() == 0) p.out[token] = sum;
}

int tileParts(const FisherParams& params) {
  return static_cast<int>(tiles(params.g.width) * tiles(params.x.width)) * params.passage.sequences;
}

LaunchShape warpShape(int64_t warps) {
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>((warps + kWarps - 1) / kWarps);
  shape.threads = kThreads;
  return shape;
}

LaunchShape threadShape(int64_t threads) {
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>((threads + kThreads - 1) / kThreads);
  shape.threads = kThreads;
  return shape;
}

std::invalid_argument noWide() {
  return std::invalid_argument(
      "f32 weights are not for the GPU: they are narrowed to bf16 when a model is loaded");
}

}  // namespace

int fisherPartials(const FisherParams& params) {
  return 3 * std::max(tileParts(params), warpgroupFisherParts(params));
}

FisherParams rowsOf(Dtype dtype, const FisherParams& params, int first, int count) {
  FisherParams part = params;
  part.g.data = params.g.data + first;
  part.g.width = count;
  part.weights = params.weights + first * rowStrips(dtype, params.x.width) * kStripBytes;
  return part;
}

void launchFisher(Stream stream, Dtype dtype, const FisherParams& params, int warpgroups) {
  if (warpgroups > 0) {
    launchWarpgroupFisher(stream, dtype, params, warpgroups);
    return finish(stream, {params.partial, warpgroupFisherParts(params), 3, params.sums});
  }
  const LaunchShape shape =
      tileShape(tiles(params.x.width), tiles(params.g.width), static_cast<unsigned>(params.passage.sequences),
                kTileBytes<false> + WeightTile<Dtype::bf16, kTile, kTile>::kBytes);
  switch (dtype) {
    case Dtype::bf16:
      launch(stream, shape, fisherKernel<Dtype::bf16>, params);
      break;
    case Dtype::int8:
      launch(stream, shape, fisherKernel<Dtype::int8>, params);
      break;
    case Dtype::int4:
      launch(stream, shape, fisherKernel<Dtype::int4>, params);
      break;
    case Dtype::f32:
      throw noWide();
  }
  finish(stream, {params.partial, tileParts(params), 3, params.sums});
}

void launchMoment(Stream stream, const MomentParams& params, int warpgroups) {
  if (warpgroups > 0) return launchWarpgroupMoment(stream, params, warpgroups);
  const unsigned lines = tiles(params.x.width);
  launch(stream, tileShape(lines * (lines + 1) / 2, 1, 1, kTileBytes<false>), momentKernel, params);
}

void launchSplit(Stream stream, const SplitParams& params) {
  launch(stream, threadShape(params.rows * (params.ld / 8)), splitKernel, params);
}

void launchWiden(Stream stream, Dtype dtype, const WidenParams& params) {
  const LaunchShape shape = threadShape(params.rows * (params.ld / 8));
  switch (dtype) {
    case Dtype::bf16:
      return launch(stream, shape, widenKernel<Dtype::bf16>, params);
    case Dtype::int8:
      return launch(stream, shape, widenKernel<Dtype::int8>, params);
    case Dtype::int4:
      return launch(stream, shape, widenKernel<Dtype::int4>, params);
    case Dtype::f32:
      throw noWide();
  }
}

void launchThinProduct(Stream stream, const ThinProductParams& params, int warpgroups) {
  if (warpgroups > 0) return launchWarpgroupThinProduct(stream, params, warpgroups);
  const unsigned columns = tiles(params.rows), rows = tiles(params.tokens);
  if (params.back) {
    return launch(stream, tileShape(columns, rows, 1, kTileBytes<true, false>), thinProductKernel<true>,
                  params);
  }
  launch(stream, tileShape(columns, rows, 1, kTileBytes<true>), thinProductKernel<false>, params);
}

size_t curveSharedBytes(int rank) { return (kWarps + static_cast<size_t>(rank) + 1) * sizeof(double); }

void launchCurve(Stream stream, const CurveParams& params) {
  LaunchShape shape;
  shape.gridX = kCurveBlocks;
  shape.threads = kThreads;
  shape.sharedBytes = curveSharedBytes(params.rank);
  shape.fitted = true;
  launch(stream, shape, curveKernel, params);
  finish(stream, {params.partial, kCurveBlocks, params.rank + 1, params.curve});
}

void launchDots(Stream stream, const DotParams& params) {
  launch(stream, warpShape(params.tokens), dotsKernel, params);
}

}  // namespace flrc::gpu
