#include "core/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "platform/process.h"

namespace flrc {
namespace {

constexpr int kMaxThreads = 256;
constexpr auto kSpin = std::chrono::microseconds(40);
// How long a region keeps others waiting, and how long once it has had that.
constexpr auto kTurn = std::chrono::milliseconds(20), kNextTurn = std::chrono::milliseconds(2);

// Set while this thread runs tasks of a region: a nested call must not wait for the region it is part of.
thread_local bool insideRegion = false;
thread_local int number = 0;

// What to ask memory for while waiting.
struct Ahead {
  const uint8_t *at = nullptr, *end = nullptr;

  // Asks for a little; false where nothing is left.
  bool ask() {
    if (at >= end) return false;
    // Into L2: more than fits into L1 may be asked for.
    __builtin_prefetch(at, 0, 2);
    at += 64;
    return true;
  }
};
thread_local Ahead ahead;

class RegionScope {
 public:
  RegionScope() : before_(insideRegion) { insideRegion = true; }
  ~RegionScope() { insideRegion = before_; }

 private:
  bool before_;
};

void pauseCore() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until ready() or the time for spinning is over; says which.
template <typename Ready>
bool spinUntil(Ready ready) {
  Ahead& mine = ahead;
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    // The clock costs as much as several pauses, so it is read once in a while.
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      if (!mine.ask()) pauseCore();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

// First come, first served: decoding calls again at once, and would starve a waiter on a std::mutex.
class TurnLock {
 public:
  void lock() {
    std::unique_lock<std::mutex> guard(mutex_);
    const uint64_t turn = last_++;
    if (turn == serving_) return;
    waiting_.fetch_add(1, std::memory_order_relaxed);
    changed_.wait(guard, [&] { return turn == serving_; });
    waiting_.fetch_sub(1, std::memory_order_relaxed);
  }
  void unlock() {
    bool waiters;
    {
      std::lock_guard<std::mutex> guard(mutex_);
      ++serving_;
      waiters = serving_ != last_;
    }
    if (waiters) changed_.notify_all();
  }
  bool othersWait() const { return waiting_.load(std::memory_order_relaxed) > 0; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t last_ = 0, serving_ = 0;
  std::atomic<int> waiting_{0};
};

}  // namespace

// A helper joins the open region by taking a seat: `gate` holds the free seats in its high half and the
// helpers inside in its low half, so one compare-and-swap both checks that the region is still open and
// makes the caller wait for this helper. Region fields are written before the gate opens and read only
// from inside, so a late helper never sees a region that is over.
struct ThreadPool::State {
  static constexpr uint32_t kSeat = 1u << 16;

  TurnLock turn;

  // What a helper needs to begin lies on one cache line.
  alignas(64) std::atomic<uint32_t> gate{0};
  const std::function<void(int64_t)>* body = nullptr;
  int64_t tasks = 0, handedOut = 0;
  std::chrono::steady_clock::time_point turnEnd;
  std::atomic<int64_t> next{0};
  alignas(64) std::mutex failureMutex;
  std::exception_ptr failure;

  std::mutex parkMutex;
  std::condition_variable opened, emptied;
  std::atomic<int> parked{0};
  std::atomic<bool> callerParked{false};

  int helpers = 0;

  void grow(int wanted) {
    for (; helpers < wanted; ++helpers) {
      try {
        std::thread([this, which = helpers + 1] { help(which); }).detach();
      } catch (const std::system_error&) {
        return;  // The caller does what missing helpers would have done.
      }
    }
  }

  [[noreturn]] void help(int which) {
    insideRegion = true;
    number = which;
    for (;;) {
      if (!spinUntil([&] { return gate.load(std::memory_order_acquire) >= kSeat; })) park();
      if (!takeSeat()) continue;
      work();
      leave();
    }
  }

  void park() {
    std::unique_lock<std::mutex> guard(parkMutex);
    // Sequentially consistent with open(): either the opener sees this helper parked or the helper sees the
    // gate open.
    parked.fetch_add(1);
    opened.wait(guard, [&] { return gate.load() >= kSeat; });
    parked.fetch_sub(1);
  }

  bool takeSeat() {
    uint32_t seen = gate.load(std::memory_order_relaxed);
    while (seen >= kSeat) {
      if (gate.compare_exchange_weak(seen, seen - kSeat + 1, std::memory_order_acquire)) return true;
    }
    return false;
  }

  void leave() {
    if (gate.fetch_sub(1) == 1 && callerParked.load()) {
      std::lock_guard<std::mutex> guard(parkMutex);
      emptied.notify_one();
    }
  }

  void open(int seats) {
    gate.exchange(static_cast<uint32_t>(seats) * kSeat);
    if (parked.load() == 0) return;
    std::lock_guard<std::mutex> guard(parkMutex);
    for (int i = 0; i < seats; ++i) opened.notify_one();
  }

  // Takes back the free seats and waits for the helpers inside.
  void close() {
    if (gate.fetch_and(kSeat - 1) % kSeat == 0) return;
    const auto empty = [&] { return gate.load() == 0; };
    if (spinUntil(empty)) return;
    std::unique_lock<std::mutex> guard(parkMutex);
    // Sequentially consistent with leave(). Exchanged, not stored: QEMU lets a load overtake ARM's store.
    callerParked.exchange(true);
    emptied.wait(guard, empty);
    callerParked.store(false);
  }

  void work() {
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      try {
        (*body)(task);
      } catch (...) {
        std::lock_guard<std::mutex> guard(failureMutex);
        if (!failure) failure = std::current_exception();
        next.store(tasks, std::memory_order_relaxed);
      }
      if (turn.othersWait() && std::chrono::steady_clock::now() >= turnEnd) stop();
    }
  }

  // The region goes on in a later turn.
  void stop() {
    const int64_t from = next.exchange(tasks, std::memory_order_relaxed);
    if (from < tasks) handedOut = from;
  }

  // Tasks from `first` on, until all are done or the turn is over; returns the first that is left.
  int64_t takeTurn(const std::function<void(int64_t)>& run, int64_t first, int64_t end, int threads) {
    std::lock_guard<TurnLock> guard(turn);
    const int seats = static_cast<int>(std::min<int64_t>(threads, end - first)) - 1;
    grow(seats);
    body = &run;
    tasks = handedOut = end;
    next.store(first, std::memory_order_relaxed);
    failure = nullptr;
    turnEnd = std::chrono::steady_clock::now() + (first == 0 ? kTurn : kNextTurn);
    open(seats);
    {
      RegionScope scope;
      work();
    }
    close();
    if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
    return handedOut;
  }
};

ThreadPool::ThreadPool() : state_(new State) {}

ThreadPool& ThreadPool::shared() {
  static ThreadPool* const pool = new ThreadPool;
  return *pool;
}

int ThreadPool::threadNumber() { return number; }

void ThreadPool::readAhead(const uint8_t* at, int64_t bytes) { ahead = {at, at + bytes}; }

int ThreadPool::availableCores() {
  static const int cores = platform::availableCores();
  return cores;
}

void ThreadPool::parallelFor(int64_t tasks, int threads, const std::function<void(int64_t task)>& body) {
  if (tasks <= 0) return;
  const int wanted = std::clamp(threads > 0 ? threads : availableCores(), 1, kMaxThreads);
  const int working = static_cast<int>(std::min<int64_t>(wanted, tasks));
  if (working == 1 || insideRegion) {
    RegionScope scope;
    for (int64_t task = 0; task < tasks; ++task) body(task);
    return;
  }

  for (int64_t next = 0; next < tasks;) next = state_->takeTurn(body, next, tasks, working);
}

}  // namespace flrc
