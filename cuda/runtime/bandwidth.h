#pragma once

namespace flrc::gpu {

// Bytes per second that a kernel reads of memory larger than the caches, the best of a few readings.
double measureBandwidth();

}  // namespace flrc::gpu
