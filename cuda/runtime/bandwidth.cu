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
#ifdef __CUDACC__
constexpr size_t kBytes = size_t{1} << 30;
#else
constexpr size_t kBytes = size_t{1} << 18;
#endif

}  // namespace

double measureBandwidth() {
  Queue queue;
  const std::vector<uint8_t> zeros(kBytes);
  const Buffer<uint8_t> data(zeros.data(), zeros.size());
  const Buffer<uint32_t> out(1);
  const ReadParams params = {viewAs<Word4>(data), kBytes / sizeof(Word4), out.global()};
  const int multiprocessors = currentDevice().multiprocessors;
  double best = 0;
  for (int reading = 0; reading < kReadings; ++reading) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kLaunches; ++i) launchRead(queue.stream(), params, multiprocessors);
    queue.synchronise();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::max(best, kLaunches * static_cast<double>(kBytes) / seconds.count());
  }
  return best;
}

}  // namespace flrc::gpu
