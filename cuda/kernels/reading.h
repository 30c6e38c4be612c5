#pragma once

#include "kernels/device.cuh"

namespace flrc::gpu {

// Reads memory, as fast as it can be read, and does nothing with it: what bandwidths are measured by.
struct ReadParams {
  Global<const Word4> data;
  int64_t words;
  Global<uint32_t> out;  // [1], written by chance only
};
void launchRead(Stream stream, const ReadParams& params, int multiprocessors);

}  // namespace flrc::gpu
