#include "platform/process.h"

#include <windows.h>
// After windows.h, whose types it uses.
#include <psapi.h>

#include <algorithm>
#include <bit>
#include <thread>

namespace flrc::platform {

int availableCores() {
  DWORD_PTR own = 0, machine = 0;
  const bool known = GetProcessAffinityMask(GetCurrentProcess(), &own, &machine) && own != 0;
  // A process with threads in several groups of 64 processors has no mask.
  return known ? std::popcount(own) : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int64_t peakMemory() {
  PROCESS_MEMORY_COUNTERS counters{};
  if (!K32GetProcessMemoryInfo(GetCurrentProcess(), &counters, sizeof counters)) return 0;
  return static_cast<int64_t>(counters.PeakWorkingSetSize);
}

double processorSeconds() {
  // std::clock counts the time of day here.
  FILETIME begun{}, ended{}, kernel{}, user{};
  GetProcessTimes(GetCurrentProcess(), &begun, &ended, &kernel, &user);
  const auto ticks = [](const FILETIME& time) {
    return (uint64_t{time.dwHighDateTime} << 32) + time.dwLowDateTime;
  };
  return static_cast<double>(ticks(kernel) + ticks(user)) * 1e-7;
}

void atProcessExit(void (*)()) {}

}  // namespace flrc::platform
