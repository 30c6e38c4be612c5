#include "core/shared_run.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "check.h"
#include "core/thread_pool.h"

using flrc::SharedRun;
using flrc::ThreadPool;
using flrc::Units;

TEST("shared run: parts come from the front and from the back until nothing is left") {
  SharedRun run;
  run.set({3, 10});
  const auto two = [](Units) { return int64_t{2}; };
  const auto all = [](Units left) { return left.count(); };
  const Units front = run.takeFront(two), back = run.takeBack(two), rest = run.takeFront(all);
  CHECK_EQUAL(front.begin, 3);
  CHECK_EQUAL(front.end, 5);
  CHECK_EQUAL(back.begin, 8);
  CHECK_EQUAL(back.end, 10);
  CHECK_EQUAL(rest.begin, 5);
  CHECK_EQUAL(rest.end, 8);
  CHECK_EQUAL(run.takeFront(two).count(), 0);
  CHECK_EQUAL(run.takeBack(two).count(), 0);
}

TEST("shared run: every unit is taken once, whoever comes from which end") {
  constexpr int64_t kUnits = 20000;
  for (int round = 0; round < 20; ++round) {
    SharedRun run;
    run.set({0, kUnits});
    std::vector<std::atomic<int>> taken(kUnits);
    ThreadPool::shared().parallelFor(4, 4, [&](int64_t task) {
      const auto some = [&](Units left) { return std::min<int64_t>(left.count(), 1 + task); };
      for (;;) {
        const Units units = task % 2 == 0 ? run.takeFront(some) : run.takeBack(some);
        if (units.count() == 0) break;
        for (int64_t unit = units.begin; unit < units.end; ++unit) ++taken[static_cast<size_t>(unit)];
      }
    });
    for (const auto& times : taken) CHECK_EQUAL(times.load(), 1);
  }
}
