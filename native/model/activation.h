#pragma once

#include <cstdint>

namespace flrc {

// What an MLP does to the gate before it multiplies `up`; GeLU is approximated by tanh.
enum class Activation : int32_t { silu, geluTanh };

}  // namespace flrc
