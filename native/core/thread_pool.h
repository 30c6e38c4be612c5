#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace flrc {

// A process-wide pool of compute threads. parallelFor runs body(task) for task = 0..tasks-1 on the
// calling thread and up to threads-1 helpers and returns when all are done. Which thread runs which task
// is left open, so results must not depend on it: every task writes its own outputs.
// Several callers may call at once; their regions take turns, and one that lasts interrupts itself between two
// tasks for those that wait. Tasks begin in order. Nested calls run on the calling thread.
// An exception in a task stops the handing out of further tasks and is rethrown to the caller (the first).
// Helpers spin for some microseconds after a region (decoding calls again at once), then park.
class ThreadPool {
 public:
  // The pool shared by the process; made on first use, never destroyed (threads may still run at exit).
  static ThreadPool& shared();

  // threads: how many threads in all may work for this call, the caller counted; 0 means all cores.
  void parallelFor(int64_t tasks, int threads, const std::function<void(int64_t task)>& body);

  // Which of the pool's threads this is: 0 for all that call, helpers from 1 on. Who keeps to it finds in his
  // caches what he left there.
  static int threadNumber();

  // Weights that this thread is likely to read next. While it waits for work, or for others to finish theirs,
  // it asks memory for them. That reads nothing: they may be gone by then.
  static void readAhead(const uint8_t* at, int64_t bytes);

  // Cores this process may run on (affinity and cgroup quota), at least 1.
  static int availableCores();

 private:
  ThreadPool();
  ~ThreadPool() = delete;
  struct State;
  State* state_;
};

}  // namespace flrc
