#pragma once

#include <cstdint>
#include <memory>

#include "core/job.h"

namespace flrc {

// A buffer to measure read bandwidth with; it should be larger than the caches. E_INTERNAL below 2 MiB.
class ReadProbe {
 public:
  explicit ReadProbe(int64_t bytes);
  // Bytes per second that threads together read from memory in one pass over the buffer. threads: as
  // ThreadPool::parallelFor. E_ABORTED.
  double measure(int threads, const Job& job) const;

 private:
  int64_t tasks_;
  std::unique_ptr<uint64_t[]> words_;
};

// The fastest of a few passes over a buffer of `bytes`.
double readBandwidth(int64_t bytes, int threads, const Job& job);

}  // namespace flrc
