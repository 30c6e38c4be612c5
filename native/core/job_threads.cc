#include "core/job_threads.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "platform/process.h"

namespace flrc {
namespace {

constexpr auto kIdleLife = std::chrono::seconds(5);

struct Task {
  std::shared_ptr<Job> job;
  std::function<void()> work;
};

class Threads {
 public:
  Threads() { platform::atProcessExit(stopAtExit); }

  // Never destroyed: threads may still wait on it while the process exits.
  static Threads& shared() {
    static auto* instance = new Threads;
    return *instance;
  }

  void start(Task task) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (exiting_) return;
    running_.insert(task.job);
    queue_.push_back(std::move(task));
    if (idle_ >= queue_.size()) {
      wake_.notify_one();
    } else {
      std::thread([this] { loop(); }).detach();
    }
  }

 private:
  void loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      ++idle_;
      const bool woken = wake_.wait_for(lock, kIdleLife, [this] { return !queue_.empty(); });
      --idle_;
      if (!woken) return;
      Task task = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      task.work();
      task.work = nullptr;
      lock.lock();
      running_.erase(task.job);
      done_.notify_all();
    }
  }

  static void stopAtExit() {
    Threads& self = shared();
    std::unique_lock<std::mutex> lock(self.mutex_);
    self.exiting_ = true;
    for (const auto& job : self.running_) job->cancel();
    self.done_.wait(lock, [&self] { return self.running_.empty(); });
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::deque<Task> queue_;
  std::set<std::shared_ptr<Job>> running_;
  size_t idle_ = 0;
  bool exiting_ = false;
};

}  // namespace

void runOnJobThread(std::shared_ptr<Job> job, std::function<void()> work) {
  Threads::shared().start({std::move(job), std::move(work)});
}

}  // namespace flrc
