#include <algorithm>
#include <chrono>

#include "runtime/bandwidth.h"
#include "runtime/device_limits.h"
#include "runtime/memory.h"

namespace flrc::gpu {
namespace {

constexpr int kThreads = 1024;
constexpr int kReadings = 5;
// Words that a thread has under way together.
constexpr int kAhead = 8;
#ifdef __CUDACC__
constexpr size_t kBytes = size_t{1} << 30;
#else
constexpr size_t kBytes = size_t{1} << 18;
#endif

struct ReadParams {
  Global<const Word4> data;
  int64_t words;
  Global<uint32_t> out;
};

FLRC_KERNEL void readKernel(FLRC_PARAMS(ReadParams) p) {
  uint32_t sum = 0;
  const int64_t threads = static_cast<int64_t>(gridX()) * kThreads;
  const int64_t first = static_cast<int64_t>(blockX()) * kThreads + threadIndex();
  for (int64_t i = first; i + (kAhead - 1) * threads < p.words; i += kAhead * threads) {
    Word4 word[kAhead];
    FLRC_UNROLL
    for (int a = 0; a < kAhead; ++a) word[a] = streamed(p.data + (i + a * threads));
    FLRC_UNROLL
    for (int a = 0; a < kAhead; ++a) sum += word[a].x ^ word[a].y ^ word[a].z ^ word[a].w;
  }
  // Never so, which the compiler does not know.
  if (sum == 0x9e3779b9u) p.out[0] = sum;
}

}  // namespace

double measureBandwidth() {
  Queue queue;
  const std::vector<uint8_t> zeros(kBytes);
  const Buffer<uint8_t> data(zeros.data(), zeros.size());
  const Buffer<uint32_t> out(1);
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>(2 * currentDevice().multiprocessors);
  shape.threads = kThreads;
  const ReadParams params = {viewAs<Word4>(data), kBytes / 16, out.global()};
  double best = 0;
  for (int reading = 0; reading < kReadings; ++reading) {
    queue.synchronise();
    const auto begin = std::chrono::steady_clock::now();
    launch(queue.stream(), shape, readKernel, params);
    queue.synchronise();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::max(best, static_cast<double>(kBytes) / seconds.count());
  }
  return best;
}

}  // namespace flrc::gpu
