#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>

#include "core/job.h"

namespace flrc {

// Threads that coordinate long work, each reused where it has just become idle; the heavy loops run on the
// ThreadPool. Decoding calls once per token, so starting a thread each time would show. Its threads need it as
// long as they live, so it is never destroyed.
class JobThreads {
 public:
  // Runs what it is given on a thread of its own; std::system_error where the system refuses one.
  using Spawn = void (*)(std::function<void()> loop);
  explicit JobThreads(Spawn spawn) : spawn_(spawn) {}
  ~JobThreads() = delete;

  // Runs `work` (which must not throw), at once or, where the system refuses another thread, once one of these
  // is done. E_OUT_OF_MEMORY, and nothing is run, where there is none.
  void start(std::shared_ptr<Job> job, std::function<void()> work);

  // Cancels all jobs, waits until they have ended, and starts no more.
  void stop();

 private:
  struct Task {
    std::shared_ptr<Job> job;
    std::function<void()> work;
  };
  void addThread();
  void loop();

  const Spawn spawn_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::deque<Task> queue_;
  std::set<std::shared_ptr<Job>> running_;
  size_t idle_ = 0, alive_ = 0;
  bool exiting_ = false;
};

// Starts `work` on the process's own JobThreads.
// When the process exits while work is under way, its job is cancelled and waited for up to its next check:
// OpenBLAS unmaps its buffers in a destructor, under the feet of whoever still multiplies.
void runOnJobThread(std::shared_ptr<Job> job, std::function<void()> work);

// JobThreads::stop() of the process's own, for whoever knows of the exit before handlers run. Those of
// libraries that work has opened since, such as CUDA's, come before the one that does so at any exit.
void stopJobThreads();

}  // namespace flrc
