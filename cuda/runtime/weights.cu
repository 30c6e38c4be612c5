#include <string>

#include "runtime/weights.h"

namespace flrc::gpu {
namespace {

uint64_t bytesOf(const BackendRows& rows) {
  return static_cast<uint64_t>(rows.rows * rowStrips(rows.dtype, rows.cols) * kStripBytes);
}

uint64_t bytesOf(const BackendPanels& panels) {
  const int64_t each = (hasScale(panels.dtype) ? 2 : 0) + (hasZero(panels.dtype) ? 1 : 0);
  return static_cast<uint64_t>(panels.outputs * stripsOf(panels.dtype, panels.rank) * kStripBytes +
                               unitsOf(panels.outputs) * scalesOf(panels.rank) * each);
}

uint64_t bytesOf(const BackendLinear& linear) {
  uint64_t bytes = linear.bias ? static_cast<uint64_t>(linear.outputs) * sizeof(float) : 0;
  if (linear.dense) return bytes + bytesOf(*linear.dense);
  for (int64_t b = 0; b < linear.blockCount; ++b) {
    const BackendBlock& block = linear.blocks[b];
    bytes += bytesOf(block.p) + bytesOf(block.c);
    // pivot and rest together, and gather.
    if (linear.pivoted) bytes += 2 * static_cast<uint64_t>(linear.outputs) * sizeof(int32_t);
  }
  return bytes;
}

template <typename T>
Buffer<T> optional(const void* from, int64_t count) {
  return from ? Buffer<T>(static_cast<const T*>(from), static_cast<size_t>(count)) : Buffer<T>();
}

template <typename T>
Buffer<T> uploaded(const std::vector<T>& values) {
  return {values.data(), values.size()};
}

}  // namespace

RowWeights::RowWeights(const BackendRows& from)
    : rows(from.rows),
      cols(from.cols),
      dtype(from.dtype),
      data(uploaded(packRows(dtype, rows, from.stride, from.data, from.scale, from.zero))) {}

PanelWeights::PanelWeights(const BackendPanels& from)
    : outputs(from.outputs), rank(from.rank), dtype(from.dtype) {
  const PackedPanels packed = packPanels(dtype, outputs, rank, from.data, from.scale, from.zero);
  data = uploaded(packed.data);
  scale = uploaded(packed.scale);
  zero = uploaded(packed.zero);
}

BlockWeights::BlockWeights(const BackendBlock& from) : p(from.p), c(from.c) {
  if (!from.pivot) return;
  const int64_t outputs = p.rows + c.outputs;
  pivot = optional<int32_t>(from.pivot, p.rows);
  gather = optional<int32_t>(from.gather, outputs);
  others = restOf(from.gather, outputs, p.rows);
  rest = Buffer<int32_t>(others.data(), others.size());
}

LinearWeights::LinearWeights(const BackendLinear& from)
    : outputs(from.outputs),
      inputs(from.inputs),
      factored(!from.dense),
      pivoted(from.pivoted),
      bias(optional<float>(from.bias, from.outputs)) {
  if (from.dense) dense = RowWeights(*from.dense);
  for (int64_t b = 0; b < from.blockCount; ++b) blocks.emplace_back(from.blocks[b]);
}

int64_t LinearWeights::blocksFor(int64_t rank) const {
  if (!pivoted) return rank > 0 ? 1 : 0;
  int64_t count = 0, sum = 0;
  for (const BlockWeights& block : blocks) {
    if (sum + block.rank() > rank) break;
    sum += block.rank();
    ++count;
  }
  return count;
}

uint64_t bytesOf(const BackendModel& model) {
  uint64_t bytes = bytesOf(model.embedding);
  if (model.head.data != model.embedding.data) bytes += bytesOf(model.head);
  const auto norms = static_cast<uint64_t>(4 * model.hidden + 2 * model.headDim) * sizeof(float);
  for (int64_t l = 0; l < model.layers; ++l) {
    bytes += norms;
    for (const BackendLinear& linear : model.layer[l].projections) bytes += bytesOf(linear);
  }
  return bytes;
}

std::string limitOf(const BackendModel& model) {
  if (model.headDim % 8 != 0 || model.headDim > 256) {
    return "the CUDA plugin takes heads of 8 to 256 dimensions in multiples of 8, and the model's have " +
           std::to_string(model.headDim) + "; use device cpu";
  }
  for (int64_t i = 0; i < model.ropeCount; ++i) {
    if (model.ropes[i].pairs % 2 == 0) continue;
    return "the CUDA plugin turns an even number of pairs of a head, and the model has " +
           std::to_string(model.ropes[i].pairs) + "; use device cpu";
  }
  for (int64_t l = 0; l < model.layers; ++l) {
    for (const BackendLinear& linear : model.layer[l].projections) {
      if (linear.blockCount > kMaxBlocks) {
        return "the CUDA plugin takes factors of up to " + std::to_string(kMaxBlocks) + " levels, and layer " +
               std::to_string(l) + " has " + std::to_string(linear.blockCount) +
               "; compress with fewer --levels, or use device cpu";
      }
      const bool wide = linear.dense ? linear.dense->dtype == Dtype::f32
                                     : linear.blockCount > 0 && linear.blocks[0].p.dtype == Dtype::f32;
      if (wide) return "the CUDA plugin takes weights in bf16, int8 and int4; use another dtype, or device cpu";
    }
  }
  return {};
}

std::vector<int32_t> restOf(const int32_t* gather, int64_t outputs, int64_t rank) {
  std::vector<int32_t> rest(static_cast<size_t>(outputs - rank));
  for (int64_t o = 0; o < outputs; ++o) {
    if (gather[o] >= rank) rest[static_cast<size_t>(gather[o] - rank)] = static_cast<int32_t>(o);
  }
  return rest;
}

}  // namespace flrc::gpu
