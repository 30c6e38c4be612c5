#pragma once

#include <vector>

#include "runtime/model.h"

namespace flrc::gpu {

// By how much positions turn the pairs of a head, by each of the model's rotations, scaled as it says.
class Rotations {
 public:
  Rotations() = default;
  Rotations(const DeviceModel& model, int64_t positions);
  uint64_t bytes() const;

  // What a layer's heads take; nothing is turned where it has no rotation.
  struct View {
    Global<const float> cosine, sine;  // [positions][pairs]
    int pairs;
  };
  View of(const LayerWeights& layer) const;

 private:
  struct Table {
    int pairs;
    Buffer<float> cosine, sine;
  };
  std::vector<Table> tables_;
};

}  // namespace flrc::gpu
