#include <algorithm>
#include <chrono>

#include "kernels/reading.h"
#include "runtime/bandwidth.h"
#include "runtime/device_limits.h"
#include "runtime/memory.h"

namespace flrc::gpu {
namespace {

constexpr int kReadings = 5;
// One after another, so that the way of a launch to the GPU does not count.
constexpr int kLaunches = 4;
// More than caches hold.
#ifdef __CUDACC__
constexpr size_t kMostBytes = size_t{1} << 30;
#else
constexpr size_t kMostBytes = size_t{1} << 18;
#endif

}  // namespace

double measureBandwidth() {
  Queue queue;
  // Models have the rest.
  const size_t bytes = std::min<size_t>(kMostBytes, freeBytes() / 2) / sizeof(Word4) * sizeof(Word4);
  const std::vector<uint8_t> zeros(bytes);
  const Buffer<uint8_t> data(zeros.data(), bytes);
  const Buffer<uint32_t> out(1);
  const ReadParams params = {viewAs<Word4>(data), static_cast<int64_t>(bytes / sizeof(Word4)), out.global()};
  const int multiprocessors = currentDevice().multiprocessors;
  double best = 0;
  for (int reading = 0; reading < kReadings; ++reading) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kLaunches; ++i) launchRead(queue.stream(), params, multiprocessors);
    queue.synchronise();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::max(best, kLaunches * static_cast<double>(bytes) / seconds.count());
  }
  return best;
}

}  // namespace flrc::gpu
