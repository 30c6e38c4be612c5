#pragma once

#include <cstdint>
#include <vector>

namespace flrc {

// Keys and values of one sequence, rotary applied to keys.
struct KvCache {
  struct Layer {
    std::vector<float> keys, values;  // [position, kvHeads * headDim]
  };

  explicit KvCache(int64_t layerCount) : layers(static_cast<size_t>(layerCount)) {}

  // Room for `positions` in one layer, and some more: a sequence grows token by token.
  void reserve(int64_t layer, int64_t positions, int64_t width) {
    Layer& of = layers[static_cast<size_t>(layer)];
    const auto needed = static_cast<size_t>(positions * width);
    if (of.keys.size() >= needed) return;
    of.keys.resize(needed + needed / 4);
    of.values.resize(needed + needed / 4);
  }

  int64_t length = 0;
  std::vector<Layer> layers;
};

}  // namespace flrc
