#include "core/job_threads.h"

#include <chrono>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "core/error.h"
#include "platform/process.h"

namespace flrc {
namespace {

constexpr auto kIdleLife = std::chrono::seconds(5);

JobThreads& shared() {
  static auto* instance = [] {
    auto* made = new JobThreads([](std::function<void()> loop) { std::thread(std::move(loop)).detach(); });
    platform::atProcessExit([] { shared().stop(); });
    return made;
  }();
  return *instance;
}

}  // namespace

void JobThreads::start(std::shared_ptr<Job> job, std::function<void()> work) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (exiting_) return;
  queue_.push_back({job, std::move(work)});
  try {
    running_.insert(job);
    if (idle_ >= queue_.size()) {
      wake_.notify_one();
    } else {
      addThread();
    }
  } catch (...) {
    queue_.pop_back();
    running_.erase(job);
    throw;
  }
}

void JobThreads::addThread() {
  try {
    spawn_([this] { loop(); });
    ++alive_;
  } catch (const std::system_error& error) {
    // One that lives looks into the queue before it ends.
    if (alive_ > 0) return;
    throw Error(code::outOfMemory,
                std::string("the system refuses another thread (") + error.what() +
                    "); end other programs, or raise the limit of processes (ulimit -u, a container's pids "
                    "limit)");
  }
}

void JobThreads::loop() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    ++idle_;
    const bool woken = wake_.wait_for(lock, kIdleLife, [this] { return !queue_.empty(); });
    --idle_;
    if (!woken) break;
    Task task = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    task.work();
    task.work = nullptr;
    lock.lock();
    running_.erase(task.job);
    done_.notify_all();
  }
  --alive_;
}

void JobThreads::stop() {
  std::unique_lock<std::mutex> lock(mutex_);
  exiting_ = true;
  for (const auto& job : running_) job->cancel();
  done_.wait(lock, [this] { return running_.empty(); });
}

void runOnJobThread(std::shared_ptr<Job> job, std::function<void()> work) {
  shared().start(std::move(job), std::move(work));
}

void stopJobThreads() { shared().stop(); }

}  // namespace flrc
