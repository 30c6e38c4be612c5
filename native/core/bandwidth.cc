#include "core/bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>

#include "core/error.h"
#include "core/thread_pool.h"

namespace flrc {
namespace {

constexpr int kPasses = 3;
// Words of a task: long enough that starting it does not count, short enough to notice an abort.
constexpr int64_t kTaskWords = int64_t{1} << 18;

uint64_t sum(const uint64_t* words, int64_t count) {
  uint64_t total = 0;
  for (int64_t i = 0; i < count; ++i) total += words[i];
  return total;
}

}  // namespace

double readBandwidth(int64_t bytes, int threads, const Job& job) {
  const int64_t tasks = bytes / (kTaskWords * static_cast<int64_t>(sizeof(uint64_t)));
  if (tasks < 1) throw Error(code::internal, "a buffer of at least 2 MiB is needed to measure bandwidth");
  const std::unique_ptr<uint64_t[]> words(new uint64_t[static_cast<size_t>(tasks * kTaskWords)]);
  ThreadPool& pool = ThreadPool::shared();
  pool.parallelFor(tasks, threads, [&](int64_t task) {
    job.check();
    std::fill_n(words.get() + task * kTaskWords, kTaskWords, static_cast<uint64_t>(task));
  });
  // Using what was read keeps the compiler from leaving the reading out.
  std::atomic<uint64_t> total{0};
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto begin = std::chrono::steady_clock::now();
    pool.parallelFor(tasks, threads, [&](int64_t task) {
      job.check();
      total.fetch_add(sum(words.get() + task * kTaskWords, kTaskWords), std::memory_order_relaxed);
    });
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
    best = std::max(best, static_cast<double>(tasks * kTaskWords) * sizeof(uint64_t) / spent.count());
  }
  const auto expected = static_cast<uint64_t>(tasks * (tasks - 1) / 2 * kTaskWords) * kPasses;
  if (total.load() != expected) throw Error(code::internal, "memory was not read as it was written");
  return best;
}

}  // namespace flrc
