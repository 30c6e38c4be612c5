#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace flrc {

// Working memory handed from task to task, so that a thread's buffers are paged in once and all are freed
// together with the pass that owns them.
template <typename T>
class Recycled {
 public:
  class Lease {
   public:
    Lease(Recycled& owner, std::unique_ptr<T> value) : owner_(owner), value_(std::move(value)) {}
    ~Lease() {
      std::lock_guard<std::mutex> lock(owner_.mutex_);
      owner_.free_.push_back(std::move(value_));
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    T& operator*() { return *value_; }
    T* operator->() { return value_.get(); }

   private:
    Recycled& owner_;
    std::unique_ptr<T> value_;
  };

  Lease take() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return Lease(*this, std::make_unique<T>());
    std::unique_ptr<T> value = std::move(free_.back());
    free_.pop_back();
    return Lease(*this, std::move(value));
  }

  // Frees what no task holds at the moment.
  void clear() {
    std::lock_guard<std::mutex> lock(mutex_);
    free_.clear();
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<T>> free_;
};

}  // namespace flrc
