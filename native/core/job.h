#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "core/error.h"

namespace flrc {

// What a long piece of native work knows of its caller: whether it was cancelled, and where progress goes.
// One Job belongs to one call; any thread of that call may use it.
class Job {
 public:
  // stage: a short word such as "forward"; done of total in that stage.
  using Progress = std::function<void(const char* stage, int64_t done, int64_t total)>;

  Job() = default;
  explicit Job(Progress progress) : progress_(std::move(progress)) {}

  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  // Throws E_ABORTED once cancelled; called at least every 50 ms of tiles or between LAPACK calls.
  void check() const {
    if (cancelled()) throw Error(code::aborted, "the operation was aborted");
  }
  void report(const char* stage, int64_t done, int64_t total) const {
    if (progress_) progress_(stage, done, total);
  }

 private:
  std::atomic<bool> cancelled_{false};
  Progress progress_;
};

}  // namespace flrc
