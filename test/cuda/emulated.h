#pragma once

#include <memory>

#include "model/loader.h"

// The CUDA plugin, whose runtime and kernels are built for the emulator (cuda/emulator). Says nothing of a GPU.
namespace emulated {

// By what passes of f32 activations differ from the CPU's, as parts of the norm of what they give: two bf16
// halves leave 2^-18 of an f32, the three products of them have it each, and the errors of some twenty products
// one behind the other are independent.
inline constexpr double kPass = 3 * 4.5 * 0x1p-18;

// Null, and says so, where there is no plugin to test.
const flrc::Backend* plugin();

// The same weights on the CPU and on the plugin.
struct Pair {
  std::shared_ptr<const flrc::Model> cpu, cuda;
};
Pair both(const flrc::Backend& plugin, flrc::ModelSpec spec, flrc::Dtype dtype);

}  // namespace emulated
