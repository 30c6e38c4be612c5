#pragma once

#include <cstdint>
#include <string>

namespace flrc::gpu {

// NVIDIA's driver, asked through its own library before any of CUDA is used, so that what is missing can be
// told apart: the run-time library's errors mix a missing driver with one that is too old.

// The driver of CUDA 13.0, for which this plugin is built, and the oldest chip it has code for.
inline constexpr int kDriverVersion = 13000;
inline constexpr int kOldestMajor = 8;

struct DriverState {
  // What keeps the first device from being used, and what to do about it; empty where nothing does.
  std::string missing;
  std::string device;  // as its maker calls it
  int major = 0, minor = 0;
  uint64_t totalBytes = 0;
};

// `library`: the driver's library, as dlopen finds it.
DriverState probeDriver(const char* library = "libcuda.so.1");

// "13.0" of 13000.
std::string versionText(int version);

}  // namespace flrc::gpu
