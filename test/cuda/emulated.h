#pragma once

#include <memory>

#include "model/loader.h"

// The CUDA plugin, whose runtime and kernels are built for the emulator (cuda/emulator). Says nothing of a GPU.
namespace emulated {

// By what passes differ from the CPU's, as parts of the norm of what they give: what is multiplied is rounded
// to bf16, in attention both factors, each of which changes by 2^-9 of its norm at most, and the errors of some
// twenty products one behind the other are independent.
inline constexpr double kPass = 2 * 4.5 * 0x1p-9;

// Null, and says so, where there is no plugin to test.
const flrc::Backend* plugin();

// The same weights on the CPU and on the plugin.
struct Pair {
  std::shared_ptr<const flrc::Model> cpu, cuda;
};
Pair both(const flrc::Backend& plugin, flrc::ModelSpec spec, flrc::Dtype dtype);

}  // namespace emulated
