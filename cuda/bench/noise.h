#pragma once

#include "kernels/device.cuh"

namespace bench {

// Values of about normal distribution, by their place: zeros take less power, and a chip is faster for it.
struct NoiseParams {
  flrc::gpu::Global<uint16_t> halves;  // or
  flrc::gpu::Global<float> floats;     // or
  flrc::gpu::Global<double> doubles;
  int64_t count;
  int falling;  // columns of a matrix whose columns shrink, or 0; of doubles
};
void launchNoise(flrc::gpu::Stream stream, const NoiseParams& params);

}  // namespace bench
