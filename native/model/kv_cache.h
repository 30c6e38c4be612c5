#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/kv_view.h"
#include "model/config.h"
#include "tensor/dtype.h"

namespace flrc {

// Keys and values of one sequence, rotary applied to keys: f32 for models in f32, else fp16.
class KvCache {
 public:
  KvCache(const ModelConfig& config, Dtype dtype)
      : view_{nullptr, nullptr, dtype != Dtype::f32, config.kvHeads, config.headDim},
        layers_(static_cast<size_t>(config.layers)) {}

  // With the first `positions` of another.
  KvCache(const KvCache& from, int64_t positions) : view_(from.view_), layers_(from.layers_.size()) {
    if (positions == 0) return;
    const int64_t blocks = (positions + cpu::kKeyBlock - 1) / cpu::kKeyBlock;
    const auto keys = static_cast<std::ptrdiff_t>(lines(blocks * cpu::kKeyBlock * view_.headDim));
    const auto values = static_cast<std::ptrdiff_t>(lines(positions * view_.valueDim()));
    for (size_t l = 0; l < layers_.size(); ++l) {
      reserve(static_cast<int64_t>(l), positions);
      std::copy_n(from.layers_[l].keys.begin(), keys, layers_[l].keys.begin());
      std::copy_n(from.layers_[l].values.begin(), values, layers_[l].values.begin());
    }
  }

  // Room for `positions` in one layer, and some more: a sequence grows token by token.
  void reserve(int64_t layer, int64_t positions) {
    Layer& of = layers_[static_cast<size_t>(layer)];
    if (positions <= of.positions) return;
    const int64_t room = roomFor(positions);
    const size_t keys = lines(room * view_.headDim), values = lines(room * view_.valueDim());
    // Exactly so much: a vector that grows by resize() may double.
    of.keys.reserve(keys);
    of.values.reserve(values);
    of.keys.resize(keys);
    of.values.resize(values);
    // Last: a layer must not claim room that memory was refused for.
    of.positions = room;
  }
  // Positions that reserve() takes memory for.
  static int64_t roomFor(int64_t positions) {
    const int64_t wanted = positions + positions / 4;
    return (wanted + cpu::kKeyBlock - 1) / cpu::kKeyBlock * cpu::kKeyBlock;
  }
  cpu::KvView view(int64_t layer) {
    Layer& of = layers_[static_cast<size_t>(layer)];
    cpu::KvView view = view_;
    view.keys = of.keys.data();
    view.values = of.values.data();
    return view;
  }
  size_t bytes() const {
    size_t total = 0;
    for (const Layer& layer : layers_)
      total += (layer.keys.capacity() + layer.values.capacity()) * sizeof(Line);
    return total;
  }
  // Of one position in all layers.
  static int64_t positionBytes(const ModelConfig& config, Dtype dtype) {
    return 2 * config.layers * config.kvWidth() * (dtype == Dtype::f32 ? 4 : 2);
  }

  int64_t length = 0;

 private:
  struct alignas(64) Line {
    uint8_t bytes[64];
  };
  struct Layer {
    int64_t positions = 0;
    std::vector<Line> keys, values;
  };

  size_t lines(int64_t elements) const {
    const int64_t bytes = elements * view_.kvHeads * (view_.half ? 2 : 4);
    return static_cast<size_t>(bytes + 63) / sizeof(Line);
  }

  cpu::KvView view_;  // without a layer's keys and values
  std::vector<Layer> layers_;
};

}  // namespace flrc
