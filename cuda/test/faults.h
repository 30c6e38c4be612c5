#pragma once

// Of kernels that are wrong on purpose.

#include <string>

#include "test/device.h"

namespace test {

inline constexpr uint64_t kSeeds = 8;

// The message of the fault, or nothing.
template <typename Kernel, typename Params>
std::string faultOf(uint64_t seed, const flrc::gpu::LaunchShape& shape, Kernel kernel, const Params& params) {
  Device device(seed);
  flrc::gpu::launch(device.stream(), shape, kernel, params);
  try {
    device.synchronise();
  } catch (const flrc::emulator::Fault& fault) {
    return fault.what();
  }
  return {};
}

inline bool says(const std::string& message, const char* words) {
  return message.find(words) != std::string::npos;
}

}  // namespace test
