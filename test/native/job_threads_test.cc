#include "core/job_threads.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"

using flrc::Job;
using flrc::JobThreads;

namespace {

// How many more threads the system gives.
int left = 0;

JobThreads& limited(int threads) {
  // Reachable to the end, like what it holds.
  static auto& all = *new std::vector<JobThreads*>;
  left = threads;
  all.push_back(new JobThreads([](std::function<void()> loop) {
    if (left == 0) throw std::system_error(EAGAIN, std::generic_category());
    --left;
    std::thread(std::move(loop)).detach();
  }));
  return *all.back();
}

// Steps that threads reach and wait for.
class Steps {
 public:
  void reach(int step) {
    std::lock_guard<std::mutex> lock(mutex_);
    reached_ = std::max(reached_, step);
    changed_.notify_all();
  }
  bool wait(int step) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return reached_ >= step; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int reached_ = 0;
};

}  // namespace

TEST("job threads: where the system refuses the first, the call fails and nothing is left to wait for") {
  JobThreads& threads = limited(0);
  bool ran = false;
  CHECK_THROWS("E_OUT_OF_MEMORY", threads.start(std::make_shared<Job>(), [&] { ran = true; }));
  left = 1;
  Steps steps;
  threads.start(std::make_shared<Job>(), [&] { steps.reach(1); });
  CHECK(steps.wait(1));
  CHECK(!ran);
  threads.stop();
}

TEST("job threads: where the system refuses another, work waits for one that is there") {
  JobThreads& threads = limited(1);
  Steps steps;
  bool firstWaited = false, firstEnded = false, inTurn = false;
  threads.start(std::make_shared<Job>(), [&] {
    firstWaited = steps.wait(1);
    firstEnded = true;
  });
  threads.start(std::make_shared<Job>(), [&] {
    inTurn = firstEnded;
    steps.reach(2);
  });
  steps.reach(1);
  CHECK(steps.wait(2));
  CHECK(firstWaited && inTurn);
  threads.stop();
}
