#pragma once

#include <string>
#include <vector>

#include "check.h"
#include "test/device.h"

namespace test {

#ifndef __CUDACC__

template <typename T>
std::string bytesOf(const Array<T>& array) {
  const std::vector<T> values = array.download();
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// Fails for every barrier of a block that can be left out unnoticed. `run` makes its memory anew, launches,
// synchronises and returns its results; of many barriers `most` are tried, and those not that are `idle`,
// which are counted from the last one on.
struct BarrierRange {
  int from = 0, to = 0;
};
template <typename Run>
void checkEveryBarrier(const char* file, int line, const Run& run, int most = 40, BarrierRange idle = {}) {
  constexpr uint64_t kSeeds = 6;
  Device whole(1);
  const std::string expected = run(whole);
  const int barriers = whole.machine().mostBarriers, step = (barriers + most - 1) / most;
  for (int barrier = 0; barrier<barriers; barrier += step> 0 ? step : 1) {
    bool found = barrier >= barriers - idle.from && barrier < barriers - idle.to;
    for (uint64_t seed = 0; seed < kSeeds && !found; ++seed) {
      Device device(seed);
      device.machine().dropBarrier = barrier;
      try {
        found = run(device) != expected;
      } catch (const flrc::emulator::Fault&) {
        found = true;
      }
    }
    if (!found) {
      check::fail(
          file, line,
          "barrier " + std::to_string(barrier) + " of " + std::to_string(barriers) + " can be left out");
    }
  }
}

// Fails for every wait of `thread` for an mbarrier, but its first `idle` ones, that can be left out unnoticed.
template <typename Run>
void checkEveryWait(const char* file, int line, const Run& run, int thread, int idle) {
  constexpr uint64_t kSeeds = 6;
  Device whole(1);
  const std::string expected = run(whole);
  const int waits = whole.machine().mostWaits[thread];
  if (waits <= idle) check::fail(file, line, "thread " + std::to_string(thread) + " waits for nothing");
  for (int wait = idle; wait < waits; ++wait) {
    bool found = false;
    for (uint64_t seed = 0; seed < kSeeds && !found; ++seed) {
      Device device(seed);
      device.machine().dropWait = {thread, wait};
      try {
        found = run(device) != expected;
      } catch (const flrc::emulator::Fault&) {
        found = true;
      }
    }
    if (!found) {
      check::fail(file, line,
                  "wait " + std::to_string(wait) + " of " + std::to_string(waits) + " of thread " +
                      std::to_string(thread) + " can be left out");
    }
  }
}

#define CHECK_EVERY_WAIT(...) test::checkEveryWait(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK_EVERY_BARRIER(...) test::checkEveryBarrier(__FILE__, __LINE__, __VA_ARGS__)

#endif

}  // namespace test
