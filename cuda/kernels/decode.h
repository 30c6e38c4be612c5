#pragma once

// What a decode pass does between its products, for up to 16 columns (tokens), each with bitwise the result
// that it has alone. Activations are f32, [columns][width]; keys and values are bf16.

#include "kernels/device.cuh"
#include "kernels/layout.h"
#include "model/activation.h"

namespace flrc::gpu {

// One column: its token, its place in a sequence, and where that sequence keeps its keys and values, [layers]
// [capacity][kvHeads * headDim] each. In device memory, so that one graph serves every step.
struct CacheRow {
  Global<uint16_t> keys, values;
  int64_t layerStride;  // values of one layer
  int position;
  int32_t token;
};

// rows[c] = staged[c], and x[c] = scale times row staged[c].token of a table [vocab][width].
struct EmbedParams {
  Global<const uint8_t> data;  // layout.h
  int width;
  Global<const CacheRow> staged;  // may be the host's memory: little of it is read
  Global<CacheRow> rows;
  Global<float> x;
  float scale = 1;
};
void launchEmbed(Stream stream, Dtype dtype, const EmbedParams& params, int columns, bool dependent);

// x += scale * add (null: nothing), then y = x / sqrt(mean(x^2) + eps) * weight. Rows of up to 16384 values.
struct NormParams {
  Global<float> x;
  Global<const float> add, weight;
  Global<float> y;  // may be x where nothing is added
  float eps;
  int width;
  float scale = 1;
};
void launchNorm(Stream stream, const NormParams& params, int columns, bool dependent);

// Norms of queries' and keys' heads where the model has them, rotation to the column's position, and keys and
// values to the cache. Pairs are (i, i + pairs), as on the CPU; `pairs` is even and at
// most headDim / 2.
struct RotateParams {
  Global<float> q;
  Global<const float> k, v;
  Global<const float> queryNorm, keyNorm;  // [headDim] or null
  float eps;
  Global<const float> cosine, sine;  // [positions][pairs]
  int heads, kvHeads, headDim, pairs;
  Global<const CacheRow> rows;
  int layer;
  float queryScale = 1;  // on queries, once turned
};
void launchRotate(Stream stream, const RotateParams& params, int columns, bool dependent);

// y = activation(gate) * up
struct GatedParams {
  Global<const float> gate, up;
  Global<float> y;
  int64_t count;  // of all columns
  Activation activation = Activation::silu;
};
void launchGated(Stream stream, const GatedParams& params, bool dependent);

}  // namespace flrc::gpu
