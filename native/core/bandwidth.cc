#include "core/bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>

#include "core/error.h"
#include "core/thread_pool.h"

namespace flrc {
namespace {

constexpr int kPasses = 3;
// Words of a task: long enough that starting it does not count, short enough to notice an abort.
constexpr int64_t kTaskWords = int64_t{1} << 18;

// Asking ahead reads faster than the processor's own prefetching, which ends with every page.
constexpr int64_t kAheadWords = 512, kLineWords = 8;

uint64_t sum(const uint64_t* words, int64_t count) {
  uint64_t total[kLineWords] = {};
  for (int64_t line = 0; line < count; line += kLineWords) {
    __builtin_prefetch(words + line + kAheadWords);
    for (int64_t i = 0; i < kLineWords; ++i) total[i] += words[line + i];
  }
  return std::accumulate(total, total + kLineWords, uint64_t{0});
}

}  // namespace

ReadProbe::ReadProbe(int64_t bytes) : tasks_(bytes / (kTaskWords * static_cast<int64_t>(sizeof(uint64_t)))) {
  if (tasks_ < 1) throw Error(code::internal, "a buffer of at least 2 MiB is needed to measure bandwidth");
  words_.reset(new uint64_t[static_cast<size_t>(tasks_ * kTaskWords)]);
  ThreadPool::shared().parallelFor(tasks_, 0, [&](int64_t task) {
    std::fill_n(words_.get() + task * kTaskWords, kTaskWords, static_cast<uint64_t>(task));
  });
}

double ReadProbe::measure(int threads, const Job& job) const {
  // Using what was read keeps the compiler from leaving the reading out.
  std::atomic<uint64_t> total{0};
  const auto begin = std::chrono::steady_clock::now();
  ThreadPool::shared().parallelFor(tasks_, threads, [&](int64_t task) {
    job.check();
    total.fetch_add(sum(words_.get() + task * kTaskWords, kTaskWords), std::memory_order_relaxed);
  });
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
  const auto expected = static_cast<uint64_t>(tasks_ * (tasks_ - 1) / 2 * kTaskWords);
  if (total.load() != expected) throw Error(code::internal, "memory was not read as it was written");
  return static_cast<double>(tasks_ * kTaskWords) * sizeof(uint64_t) / spent.count();
}

double readBandwidth(int64_t bytes, int threads, const Job& job) {
  const ReadProbe probe(bytes);
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) best = std::max(best, probe.measure(threads, job));
  return best;
}

}  // namespace flrc
