#include "platform/process.h"

#include <sys/resource.h>

#include <algorithm>
#include <thread>

namespace flrc::platform {

int availableCores() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

int64_t peakMemory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss);
}

}  // namespace flrc::platform
