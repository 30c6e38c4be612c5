#include <cmath>

#include "kernels/block.cuh"
#include "kernels/decode.h"
#include "kernels/rotation.cuh"

namespace flrc::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kNormThreads = 512;

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
      weightAt<kType>(p.data, p.scale, p.zero, token, p.strips, i);
}

// A thread holds every kNormThreads-th value of a row, kHeld of them; they are all on their way at once.
template <int kHeld>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kNormThreads, 1) normKernel(FLRC_PARAMS(NormParams) p) {
  dependentTrigger();
  const int64_t column = static_cast<int64_t>(blockX()) * p.width;
  // Weights do not depend on the launch ahead; many of them would not fit beside the row.
  constexpr int kAhead = kHeld <= 16 ? kHeld : 0;
  float weight[kAhead + 1], value[kHeld], added[kHeld];
  FLRC_UNROLL
  for (int k = 0; k < kAhead; ++k) {
    const int i = k * kNormThreads + threadIndex();
    weight[k] = i < p.width ? p.weight[i] : 0.0f;
  }
  dependentWait();
  FLRC_UNROLL
  for (int k = 0; k < kHeld; ++k) {
    const int i = k * kNormThreads + threadIndex();
    value[k] = i < p.width ? p.x[column + i] : 0.0f;
    added[k] = i < p.width && p.add != nullptr ? p.add[column + i] : 0.0f;
  }
  float squares = 0;
  FLRC_UNROLL
  for (int k = 0; k < kHeld; ++k) {
    value[k] += added[k];
    squares = fusedMultiplyAdd(value[k], value[k], squares);
  }
  const float inverse =
      1.0f / sqrtf(blockSum(squares, sharedMemory<float>(0)) / static_cast<float>(p.width) + p.eps);
  FLRC_UNROLL
  for (int k = 0; k < kHeld; ++k) {
    const int i = k * kNormThreads + threadIndex();
    if (i >= p.width) continue;
    if (p.add != nullptr) p.x[column + i] = value[k];
    p.y[column + i] = value[k] * inverse * (k < kAhead ? weight[k] : p.weight[i]);
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
  if (index < p.heads) {
    const Global<float> query = p.q + (column * p.heads + index) * p.headDim;
    HeadPart part = loadHead(query, p.headDim);
    turnHead(part, p, p.queryNorm, anglesAt(p, row.position));
    const Global<Float2> to = pointerCast<Float2>(query);
    part.forEach(p.headDim, [&](int word, Float2 pair) { to[word] = pair; });
    return;
  }
  const int kvHead = (index - p.heads) % p.kvHeads;
  const bool isKey = index < p.heads + p.kvHeads;
  HeadPart part = loadHead((isKey ? p.k : p.v) + (column * p.kvHeads + kvHead) * p.headDim, p.headDim);
  if (isKey) turnHead(part, p, p.keyNorm, anglesAt(p, row.position));
  const Global<uint32_t> to =
      pointerCast<uint32_t>((isKey ? row.keys : row.values) + cacheOffset(p, row, row.position, kvHead));
  part.forEach(p.headDim, [&](int word, Float2 pair) { to[word] = roundHalves(pair.x, pair.y); });
}

FLRC_KERNEL void swigluKernel(FLRC_PARAMS(SwigluParams) p) {
  dependentTrigger();
  dependentWait();
  const int i = blockX() * kThreads + threadIndex();
  if (i >= p.count) return;
  const float gate = p.gate[i];
  p.y[i] = gate / (1.0f + expf(-gate)) * p.up[i];
}

}  // namespace

void launchEmbed(Stream stream, Dtype dtype, const EmbedParams& given, int columns, bool dependent) {
  EmbedParams params = given;
  params.strips = static_cast<int>(stripsOf(dtype, params.width));
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
  if (params.width <= 2 * kNormThreads) return launch(stream, shape, normKernel<2>, params);
  if (params.width <= 4 * kNormThreads) return launch(stream, shape, normKernel<4>, params);
  if (params.width <= 8 * kNormThreads) return launch(stream, shape, normKernel<8>, params);
  if (params.width <= 16 * kNormThreads) return launch(stream, shape, normKernel<16>, params);
  static_assert(kWidestNorm == 32 * kNormThreads);
  if (params.width > kWidestNorm) throw std::invalid_argument("a model this wide is not for the GPU");
  launch(stream, shape, normKernel<32>, params);
}

void launchRotate(Stream stream, const RotateParams& params, int columns, bool dependent) {
  const int heads = params.heads + 2 * params.kvHeads;
  launch(stream, shapeOf((heads + kWarps - 1) / kWarps, columns, dependent), rotateKernel, params);
}

void launchSwiglu(Stream stream, const SwigluParams& params, bool dependent) {
  launch(stream, shapeOf(blocksFor(params.count), 1, dependent), swigluKernel, params);
}

}  // namespace flrc::gpu
