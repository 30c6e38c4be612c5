#pragma once

#include <functional>
#include <vector>

namespace flrc::gpu {

// Multiprocessors on which a calibration multiplies by warpgroups: those that have them, as long as what comes
// of small matrices is what comes without. Tried once in a process, for how warpgroups see shared memory no
// emulated run shows (docs/cuda.md), and a calibration would not notice.
int trustedWarpgroups();

// What several products make of the same matrices, each a list of numbers, with warpgroups or (0) without.
using Products = std::function<std::vector<std::vector<double>>(int warpgroups)>;
// Whether all of them are finite and the same, up to how sums in f32 are rounded.
bool agree(const Products& products, int warpgroups);
// `warpgroups`, or 0 and a note for the user (notes.h) where they do not agree, or fail. Failure where memory
// does not hold the products, and where the device then no longer answers(): nothing can be left out any more.
int trustedAt(const Products& products, int warpgroups, const std::function<bool()>& answers);

}  // namespace flrc::gpu
