#include <cmath>

#include "kernels/block.cuh"
#include "kernels/decode.h"
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
  const int64_t token = p.tokens[blockY()];
  const int i = blockX() * kThreads + threadIndex();
  if (i >= p.width) return;
  p.x[static_cast<int64_t>(blockY()) * p.width + i] =
      weightAt<kType>(p.data, p.scale, p.zero, token, p.strips, i);
}

FLRC_KERNEL void normKernel(FLRC_PARAMS(NormParams) p) {
  dependentTrigger();
  dependentWait();
  const int64_t column = static_cast<int64_t>(blockX()) * p.width;
  float squares = 0;
  for (int i = threadIndex(); i < p.width; i += kThreads) {
    float value = p.x[column + i];
    if (p.add != nullptr) {
      value += p.add[column + i];
      p.x[column + i] = value;
    }
    squares = fusedMultiplyAdd(value, value, squares);
  }
  const float inverse =
      1.0f / sqrtf(blockSum(squares, sharedMemory<float>(0)) / static_cast<float>(p.width) + p.eps);
  for (int i = threadIndex(); i < p.width; i += kThreads)
    p.y[column + i] = p.x[column + i] * inverse * p.weight[i];
}

// 1 / sqrt(mean of squares + eps) of one head, of which each lane holds every 32nd value; 1 where there is no
// norm.
FLRC_DEVICE float headScale(Global<const float> head, Global<const float> norm, const RotateParams& p) {
  if (norm == nullptr) return 1.0f;
  float squares = 0;
  for (int i = laneIndex(); i < p.headDim; i += 32) squares = fusedMultiplyAdd(head[i], head[i], squares);
  const float scale = 1.0f / sqrtf(warpSum(squares) / static_cast<float>(p.headDim) + p.eps);
  // What other lanes have read is written next.
  syncWarp();
  return scale;
}

// A warp has a head: of the queries, then of the keys, then of the values.
FLRC_KERNEL void rotateKernel(FLRC_PARAMS(RotateParams) p) {
  dependentTrigger();
  dependentWait();
  const int64_t column = blockY();
  const int index = blockX() * kWarps + warpIndex(), half = p.headDim / 2;
  if (index >= p.heads + 2 * p.kvHeads) return;
  const CacheRow row = p.rows[column];
  const int kvHead = (index - p.heads) % p.kvHeads;
  const int64_t cached = p.layer * row.layerStride +
                         static_cast<int64_t>(row.position) * p.kvHeads * p.headDim + kvHead * p.headDim;
  const int64_t from = (column * p.kvHeads + kvHead) * p.headDim;
  if (index >= p.heads + p.kvHeads) {
    for (int i = laneIndex(); i < p.headDim; i += 32) row.values[cached + i] = narrow(p.v[from + i]);
    return;
  }
  const bool isQuery = index < p.heads;
  const Global<float> query = p.q + (column * p.heads + index) * p.headDim;
  const Global<const float> head = isQuery ? Global<const float>(query) : p.k + from;
  const Global<const float> norm = isQuery ? p.queryNorm : p.keyNorm;
  const float scale = headScale(head, norm, p);
  for (int i = laneIndex(); i < half; i += 32) {
    float a = head[i] * scale, b = head[i + half] * scale;
    if (norm != nullptr) {
      a *= norm[i];
      b *= norm[i + half];
    }
    const int64_t angle = static_cast<int64_t>(row.position) * half + i;
    const float cosine = p.cosine[angle], sine = p.sine[angle];
    const float first = fusedMultiplyAdd(a, cosine, -(b * sine)),
                second = fusedMultiplyAdd(b, cosine, a * sine);
    if (isQuery) {
      query[i] = first;
      query[i + half] = second;
    } else {
      row.keys[cached + i] = narrow(first);
      row.keys[cached + i + half] = narrow(second);
    }
  }
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
    launch(stream, shapeOf(blocksFor(params.width), columns, dependent), kernel, params);
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
  shape.sharedBytes = kWarps * sizeof(float);
  launch(stream, shape, normKernel, params);
}

void launchRotate(Stream stream, const RotateParams& params, int columns, bool dependent) {
  const int heads = params.heads + 2 * params.kvHeads;
  launch(stream, shapeOf((heads + kWarps - 1) / kWarps, columns, dependent), rotateKernel, params);
}

void launchSwiglu(Stream stream, const SwigluParams& params, bool dependent) {
  launch(stream, shapeOf(blocksFor(params.count), 1, dependent), swigluKernel, params);
}

}  // namespace flrc::gpu
