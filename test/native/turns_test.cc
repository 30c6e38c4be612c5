// core/turns.h: a part of every task in order, however tasks end.

#include "core/turns.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "core/thread_pool.h"

using flrc::ThreadPool;
using flrc::Turns;

namespace {

constexpr int64_t kTasks = 40;

void pause(int64_t task) { std::this_thread::sleep_for(std::chrono::microseconds(task * 7919 % 300)); }

}  // namespace

TEST("turns: what is between enter and leave goes in order, and the rest overlaps") {
  for (const int threads : {1, 2, 4}) {
    Turns turns;
    std::vector<int64_t> order;
    std::atomic<int> inside{0}, most{0};
    ThreadPool::shared().parallelFor(kTasks, threads, [&](int64_t task) {
      Turns::Turn turn(turns, task);
      pause(task);
      turn.enter();
      most = std::max(most.load(), ++inside);
      order.push_back(task);
      pause(task + 1);
      --inside;
      turn.leave();
      pause(task + 2);
    });
    CHECK(most == 1);
    CHECK(std::ssize(order) == kTasks);
    CHECK(std::is_sorted(order.begin(), order.end()));
  }
}

TEST("turns: a task that ends before its turn, or in it, holds up nobody") {
  for (const bool entered : {false, true}) {
    Turns turns;
    std::vector<int64_t> order;
    const auto run = [&] {
      ThreadPool::shared().parallelFor(kTasks, 2, [&](int64_t task) {
        Turns::Turn turn(turns, task);
        pause(task);
        if (entered) turn.enter();
        if (task == 11) throw std::runtime_error("this one ends");
        turn.enter();
        order.push_back(task);
      });
    };
    bool threw = false;
    try {
      run();
    } catch (const std::runtime_error&) {
      threw = true;
    }
    CHECK(threw);
    // Those that the other thread begins before it hears of that are done in order.
    CHECK(order.size() >= 11);
    CHECK(std::is_sorted(order.begin(), order.end()));
    CHECK(!std::binary_search(order.begin(), order.end(), 11));
  }
}
