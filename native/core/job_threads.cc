#include "core/job_threads.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

namespace flrc {
namespace {

constexpr auto kIdleLife = std::chrono::seconds(5);

struct Threads {
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<std::function<void()>> queue;
  size_t idle = 0;

  void loop() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      ++idle;
      const bool woken = wake.wait_for(lock, kIdleLife, [this] { return !queue.empty(); });
      --idle;
      if (!woken) return;
      auto work = std::move(queue.front());
      queue.pop_front();
      lock.unlock();
      work();
      work = nullptr;
      lock.lock();
    }
  }
};

// Never destroyed: threads may still wait on it while the process exits.
Threads& threads() {
  static auto* instance = new Threads;
  return *instance;
}

}  // namespace

void runOnJobThread(std::function<void()> work) {
  Threads& all = threads();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.queue.push_back(std::move(work));
  if (all.idle >= all.queue.size()) {
    all.wake.notify_one();
  } else {
    std::thread([&all] { all.loop(); }).detach();
  }
}

}  // namespace flrc
