#pragma once

#include <memory>

#include "model/loader.h"

// The CUDA plugin, whose runtime and kernels are built for the emulator (cuda/emulator). Says nothing of a GPU.
namespace emulated {

// Null, and says so, where there is no plugin to test.
const flrc::Backend* plugin();

// The same weights on the CPU and on the plugin.
struct Pair {
  std::shared_ptr<const flrc::Model> cpu, cuda;
};
Pair both(const flrc::Backend& plugin, flrc::ModelSpec spec, flrc::Dtype dtype);

}  // namespace emulated
