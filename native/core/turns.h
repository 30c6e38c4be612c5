#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace flrc {

// Gives tasks that overlap an order for a part of them. Tasks 0, 1, .. each have a Turn from their first line
// on, are begun in that order, and none is left out: then a task that waits for its turn waits for one that is
// under way, however that one ends.
class Turns {
 public:
  class Turn {
   public:
    Turn(Turns& turns, int64_t task) : turns_(turns), task_(task) {}
    ~Turn() { leave(); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

    // Returns when all tasks before have left.
    void enter() {
      std::unique_lock<std::mutex> lock(turns_.mutex_);
      turns_.moved_.wait(lock, [&] { return turns_.next_ == task_; });
    }
    // Lets the next one enter; at the end at the latest.
    void leave() {
      if (left_) return;
      left_ = true;
      enter();
      {
        std::lock_guard<std::mutex> lock(turns_.mutex_);
        ++turns_.next_;
      }
      turns_.moved_.notify_all();
    }

   private:
    Turns& turns_;
    const int64_t task_;
    bool left_ = false;
  };

 private:
  std::mutex mutex_;
  std::condition_variable moved_;
  int64_t next_ = 0;
};

}  // namespace flrc
