#pragma once

#include "runtime/model.h"

namespace flrc::gpu {

// By how much positions turn the pairs of a head, scaled as the model says.
struct Rotations {
  Rotations() = default;
  Rotations(const DeviceModel& model, int64_t positions);
  uint64_t bytes() const { return cosine.bytes() + sine.bytes(); }

  Buffer<float> cosine, sine;  // [positions][ropePairs]
};

}  // namespace flrc::gpu
