#pragma once

#include <atomic>
#include <cstdint>

namespace flrc {

// Units of work in a row, [begin, end).
struct Units {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
};

// A run from which threads take parts: its own thread from the front, so that it goes through memory in order,
// and those that are done with theirs from the back. Every unit is taken once. Units are below 2^32. On a cache
// line of its own, which stays with its own thread while nobody else comes.
class alignas(64) SharedRun {
 public:
  // Before other threads come.
  void set(Units run) { left_.store(packed(run), std::memory_order_relaxed); }

  // As many as size(what is left) says, between 1 and all; none when nothing is left.
  template <typename Size>
  Units takeFront(const Size& size) {
    return take(
        [&](Units left) {
          return Units{left.begin, left.begin + size(left)};
        },
        [](Units left, Units taken) {
          return Units{taken.end, left.end};
        });
  }
  template <typename Size>
  Units takeBack(const Size& size) {
    return take(
        [&](Units left) {
          return Units{left.end - size(left), left.end};
        },
        [](Units left, Units taken) {
          return Units{left.begin, taken.begin};
        });
  }

 private:
  static uint64_t packed(Units run) {
    return static_cast<uint64_t>(run.begin) | static_cast<uint64_t>(run.end) << 32;
  }

  template <typename Part, typename Rest>
  Units take(const Part& part, const Rest& rest) {
    uint64_t seen = left_.load(std::memory_order_relaxed);
    for (;;) {
      const Units left{static_cast<int64_t>(seen & 0xffffffffu), static_cast<int64_t>(seen >> 32)};
      if (left.count() <= 0) return {};
      const Units taken = part(left);
      if (left_.compare_exchange_weak(seen, packed(rest(left, taken)), std::memory_order_relaxed)) return taken;
    }
  }

  std::atomic<uint64_t> left_{0};
};

}  // namespace flrc
