#include "core/thread_pool.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <numeric>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "platform/process.h"

using flrc::ThreadPool;

TEST("thread pool: every task runs exactly once, for any count of tasks and threads") {
  for (const int threads : {0, 1, 2, 3, 8}) {
    for (const int64_t tasks : {0, 1, 2, 7, 64, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
      ThreadPool::shared().parallelFor(tasks, threads,
                                       [&](int64_t task) { ++runs[static_cast<size_t>(task)]; });
      for (const auto& count : runs) CHECK_EQUAL(count.load(), 1);
    }
  }
}

TEST("thread pool: what tasks write is seen by the caller, region after region") {
  std::vector<int64_t> values(64);
  for (int64_t round = 0; round < 5000; ++round) {
    ThreadPool::shared().parallelFor(64, 4, [&](int64_t task) { values[static_cast<size_t>(task)] += task; });
  }
  for (int64_t i = 0; i < 64; ++i) CHECK_EQUAL(values[static_cast<size_t>(i)], i * 5000);
}

TEST("thread pool: no more threads work than asked for, and several do") {
  std::mutex mutex;
  std::condition_variable joined;
  std::set<std::thread::id> workers;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  ThreadPool::shared().parallelFor(200, 3, [&](int64_t) {
    std::unique_lock<std::mutex> guard(mutex);
    workers.insert(std::this_thread::get_id());
    joined.notify_all();
    // Who is alone waits: on a busy machine it could be done before a helper wakes.
    joined.wait_until(guard, end, [&] { return workers.size() > 1; });
  });
  CHECK_AT_MOST(static_cast<double>(workers.size()), 3);
  CHECK(workers.size() > 1);
}

TEST("thread pool: threads have numbers of their own, and callers 0") {
  const auto caller = std::this_thread::get_id();
  CHECK_EQUAL(ThreadPool::threadNumber(), 0);
  std::mutex mutex;
  std::set<std::pair<int, std::thread::id>> seen;
  ThreadPool::shared().parallelFor(200, 3, [&](int64_t) {
    std::lock_guard<std::mutex> guard(mutex);
    seen.emplace(ThreadPool::threadNumber(), std::this_thread::get_id());
  });
  std::set<int> numbers;
  for (const auto& [number, thread] : seen) {
    CHECK(numbers.insert(number).second);
    CHECK((number == 0) == (thread == caller));
  }
}

TEST("thread pool: memory that is asked for ahead may be gone") {
  for (int round = 0; round < 20; ++round) {
    ThreadPool::shared().parallelFor(4, 2, [&](int64_t) {
      const std::vector<uint8_t> memory(1 << 20);
      ThreadPool::readAhead(memory.data(), static_cast<int64_t>(memory.size()));
    });
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

TEST("thread pool: a single task or thread stays on the caller") {
  const auto caller = std::this_thread::get_id();
  ThreadPool::shared().parallelFor(1, 8, [&](int64_t) { CHECK(std::this_thread::get_id() == caller); });
  ThreadPool::shared().parallelFor(20, 1, [&](int64_t) { CHECK(std::this_thread::get_id() == caller); });
}

TEST("thread pool: nested calls run on the thread that makes them") {
  std::atomic<int64_t> sum{0};
  ThreadPool::shared().parallelFor(16, 4, [&](int64_t outer) {
    const auto here = std::this_thread::get_id();
    ThreadPool::shared().parallelFor(10, 4, [&](int64_t inner) {
      CHECK(std::this_thread::get_id() == here);
      sum += outer * 10 + inner;
    });
  });
  CHECK_EQUAL(sum.load(), 159 * 160 / 2);
}

TEST("thread pool: the first exception reaches the caller, later tasks are not started, the pool goes on") {
  for (int round = 0; round < 200; ++round) {
    std::atomic<int64_t> started{0};
    bool caught = false;
    try {
      ThreadPool::shared().parallelFor(100000, 4, [&](int64_t task) {
        ++started;
        if (task == 5) throw std::runtime_error("task 5");
        // Time for a thread that lost its core just before the throw.
        if (task > 1000) std::this_thread::sleep_for(std::chrono::microseconds(100));
      });
    } catch (const std::runtime_error& error) {
      caught = std::string(error.what()) == "task 5";
    }
    CHECK(caught);
    CHECK(started.load() < 100000);
  }
  std::atomic<int> runs{0};
  ThreadPool::shared().parallelFor(50, 4, [&](int64_t) { ++runs; });
  CHECK_EQUAL(runs.load(), 50);
}

TEST("thread pool: an exception of a lone thread or of a nested call passes through") {
  for (const int threads : {1, 4}) {
    bool caught = false;
    try {
      ThreadPool::shared().parallelFor(4, threads, [&](int64_t) {
        ThreadPool::shared().parallelFor(3, threads, [](int64_t) { throw std::runtime_error("inner"); });
      });
    } catch (const std::runtime_error&) {
      caught = true;
    }
    CHECK(caught);
  }
}

TEST("thread pool: concurrent callers take turns and all finish") {
  constexpr int kCallers = 6, kRounds = 300;
  std::vector<int64_t> sums(kCallers);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      std::vector<int64_t> values(32);
      for (int round = 0; round < kRounds; ++round) {
        ThreadPool::shared().parallelFor(
            32, 3, [&](int64_t task) { values[static_cast<size_t>(task)] += caller + 1; });
      }
      sums[static_cast<size_t>(caller)] = std::accumulate(values.begin(), values.end(), int64_t{0});
    });
  }
  for (std::thread& thread : callers) thread.join();
  for (int caller = 0; caller < kCallers; ++caller) {
    CHECK_EQUAL(sums[static_cast<size_t>(caller)], int64_t{32} * kRounds * (caller + 1));
  }
}

TEST("thread pool: short regions get turns between tasks of a long one, which still begin in order") {
  constexpr int64_t kTasks = 400;
  std::atomic<int64_t> begun{0};
  std::vector<std::atomic<int>> runs(kTasks);
  std::vector<int64_t> last(256, -1);  // by thread
  std::thread longer([&] {
    ThreadPool::shared().parallelFor(kTasks, 2, [&](int64_t task) {
      int64_t& before = last[static_cast<size_t>(ThreadPool::threadNumber())];
      CHECK(before < task);
      before = task;
      ++begun;
      ++runs[static_cast<size_t>(task)];
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    });
  });
  while (begun < 20) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  for (int round = 0; round < 5; ++round) {
    std::atomic<int> done{0};
    ThreadPool::shared().parallelFor(4, 2, [&](int64_t) { ++done; });
    CHECK_EQUAL(done.load(), 4);
  }
  CHECK_AT_MOST(static_cast<double>(begun), kTasks / 2);
  longer.join();
  for (const auto& count : runs) CHECK_EQUAL(count.load(), 1);
}

TEST("thread pool: helpers that slept wake for the next region") {
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::atomic<int> runs{0};
    ThreadPool::shared().parallelFor(8, 4, [&](int64_t) {
      ++runs;
      std::this_thread::sleep_for(std::chrono::microseconds(300));
    });
    CHECK_EQUAL(runs.load(), 8);
  }
}

TEST("thread pool: an idle pool uses no processor time") {
  ThreadPool::shared().parallelFor(64, 8, [](int64_t) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const double before = flrc::platform::processorSeconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  CHECK_AT_MOST(flrc::platform::processorSeconds() - before, 0.03);
}

TEST("thread pool: at least one core is available") {
  CHECK(ThreadPool::availableCores() >= 1);
  CHECK(ThreadPool::availableCores() <= static_cast<int>(std::thread::hardware_concurrency()));
}
