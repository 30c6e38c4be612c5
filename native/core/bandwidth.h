#pragma once

#include <cstdint>

#include "core/job.h"

namespace flrc {

// Bytes per second that threads together read from memory: the fastest of a few passes over a buffer of
// `bytes`, which should be larger than the caches. threads: as ThreadPool::parallelFor. E_ABORTED.
double readBandwidth(int64_t bytes, int threads, const Job& job);

}  // namespace flrc
