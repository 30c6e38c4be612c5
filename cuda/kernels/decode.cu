#include <cmath>

#include "kernels/activations.cuh"
#include "kernels/decode.h"
#include "kernels/octets.cuh"
#include "kernels/rotation.cuh"
#include "kernels/weights.cuh"

namespace flrc::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

LaunchShape shapeOf(int blocksX, int blocksY, bool dependent) {
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>(blocksX);
  shape.gridY = static_cast<unsigned>(blocksY);
  shape.threads = kThreads;
  shape.dependent = dependent;
  return shape;
}

int blocksFor(int64_t items) { return static_cast<int>((items + kThreads - 1) / kThreads); }

template <Dtype kType>
FLRC_KERNEL void embedKernel(FLRC_PARAMS(EmbedParams) p) {
  dependentTrigger();
  dependentWait();
  const Shared<int64_t> shared = sharedMemory<int64_t>(0);
  if (threadIndex() == 0) {
    const CacheRow row = p.staged[blockY()];
    if (blockX() == 0) p.rows[blockY()] = row;
    shared[0] = row.token;
  }
  syncBlock();
  const int64_t token = shared[0];
  const int i = blockX() * kThreads + threadIndex();
  if (i >= p.width) return;
  p.x[static_cast<int64_t>(blockY()) * p.width + i] =
      p.scale * WeightRow<kType>(p.data, token, p.width).weight(i);
}

// A thread holds every kNormThreads-th octet of a row, kHeld of them; they are all on their way at once.
template <int kHeld>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kNormThreads, 1) normKernel(FLRC_PARAMS(NormParams) p) {
  dependentTrigger();
  const int64_t column = static_cast<int64_t>(blockX()) * p.width;
  const Global<float> x = p.x + column;
  const auto placeOf = [](int octet) { return (octet * kNormThreads + threadIndex()) * 8; };
  // Weights do not depend on the launch ahead; many of them would not fit beside the row.
  constexpr int kAhead = kHeld <= 4 ? kHeld : 0;
  float weight[kAhead + 1][8], value[kHeld][8], added[kHeld][8] = {};
  FLRC_UNROLL
  for (int k = 0; k < kAhead; ++k) readOctet(p.weight, p.width, placeOf(k), weight[k]);
  dependentWait();
  FLRC_UNROLL
  for (int k = 0; k < kHeld; ++k) {
    readOctet(x, p.width, placeOf(k), value[k]);
    if (p.add != nullptr) readOctet(p.add + column, p.width, placeOf(k), added[k]);
  }
  float squares = 0;
  FLRC_UNROLL
  for (int k = 0; k < kHeld; ++k) {
    FLRC_UNROLL
    for (int i = 0; i < 8; ++i) value[k][i] = fusedMultiplyAdd(p.scale, added[k][i], value[k][i]);
    squares = addSquares(value[k], squares);
  }
  const float inverse = inverseNorm(squares, p.width, p.eps, sharedMemory<float>(0));
  FLRC_UNROLL
  for (int k = 0; k < kHeld; ++k) {
    if (p.add != nullptr) writeOctet(x, p.width, placeOf(k), value[k]);
    if (k >= kAhead) readOctet(p.weight, p.width, placeOf(k), weight[0]);
    FLRC_UNROLL
    for (int i = 0; i < 8; ++i) value[k][i] = value[k][i] * inverse * weight[k < kAhead ? k : 0][i];
    writeOctet(p.y + column, p.width, placeOf(k), value[k]);
  }
}

// A warp has a head: of the queries, then of the keys, then of the values.
FLRC_KERNEL void rotateKernel(FLRC_PARAMS(RotateParams) p) {
  dependentTrigger();
  dependentWait();
  const int64_t column = blockY();
  const int index = blockX() * kWarps + warpIndex();
  if (index >= p.heads + 2 * p.kvHeads) return;
  const CacheRow row = p.rows[column];
  const HeadShape shape{p.headDim, p.pairs};
  if (index < p.heads) {
    const Global<float> query = p.q + (column * p.heads + index) * p.headDim;
    HeadPart part = loadHead(query, shape);
    turnHead(part, p, p.queryNorm, anglesAt(p, row.position));
    const Global<Float2> to = pointerCast<Float2>(query);
    part.forEach(shape, [&](int word, Float2 pair) {
      to[word] = {pair.x * p.queryScale, pair.y * p.queryScale};
    });
    return;
  }
  const int kvHead = (index - p.heads) % p.kvHeads;
  const bool isKey = index < p.heads + p.kvHeads;
  HeadPart part = loadHead((isKey ? p.k : p.v) + (column * p.kvHeads + kvHead) * p.headDim, shape);
  if (isKey) turnHead(part, p, p.keyNorm, anglesAt(p, row.position));
  const Global<uint32_t> to =
      pointerCast<uint32_t>((isKey ? row.keys : row.values) + cacheOffset(p, row, row.position, kvHead));
  part.forEach(shape, [&](int word, Float2 pair) { to[word] = roundHalves(pair.x, pair.y); });
}

FLRC_KERNEL void gatedKernel(FLRC_PARAMS(GatedParams) p) {
  dependentTrigger();
  dependentWait();
  const int64_t i = static_cast<int64_t>(blockX()) * kThreads + threadIndex();
  if (i >= p.count) return;
  p.y[i] = activated(p.activation, p.gate[i]) * p.up[i];
}

}  // namespace

void launchEmbed(Stream stream, Dtype dtype, const EmbedParams& params, int columns, bool dependent) {
  const auto run = [&](auto kernel) {
    LaunchShape shape = shapeOf(blocksFor(params.width), columns, dependent);
    shape.sharedBytes = sizeof(int64_t);
    launch(stream, shape, kernel, params);
  };
  switch (dtype) {
    case Dtype::bf16:
      return run(embedKernel<Dtype::bf16>);
    case Dtype::int8:
      return run(embedKernel<Dtype::int8>);
    case Dtype::int4:
      return run(embedKernel<Dtype::int4>);
    case Dtype::f32:
      throw std::invalid_argument(
          "f32 weights are not for the GPU: they are narrowed to bf16 when a model is loaded");
  }
}

void launchNorm(Stream stream, const NormParams& params, int columns, bool dependent) {
  LaunchShape shape = shapeOf(columns, 1, dependent);
  shape.threads = kNormThreads;
  shape.sharedBytes = kNormThreads / 32 * sizeof(float);
  launchForWidth(params.width,
                 [&](auto octets) { launch(stream, shape, normKernel<decltype(octets)::value>, params); });
}

void launchRotate(Stream stream, const RotateParams& params, int columns, bool dependent) {
  const int heads = params.heads + 2 * params.kvHeads;
  launch(stream, shapeOf((heads + kWarps - 1) / kWarps, columns, dependent), rotateKernel, params);
}

void launchGated(Stream stream, const GatedParams& params, bool dependent) {
  launch(stream, shapeOf(blocksFor(params.count), 1, dependent), gatedKernel, params);
}

}  // namespace flrc::gpu
