#pragma once

#include <functional>

namespace flrc::gpu {

// Told between launches how many flops (fp64) were enqueued since it was told last. It may wait for them, let
// others have the device, or throw, whereupon nothing more is enqueued.
using Pace = std::function<void(double flops)>;
inline const Pace kNoPace = [](double) {};

// What one launch may take at most where it can be divided: some 50 ms of the chips with the fewest fp64 units.
inline constexpr double kFlopsPerLaunch = 1e10;
// The same of bf16 flops on tensor cores.
inline constexpr double kTensorFlopsPerLaunch = 8e11;

}  // namespace flrc::gpu
