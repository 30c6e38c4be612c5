// Whether warpgroups are trusted.

#include <cmath>

#include "check.h"
#include "runtime/device_limits.h"
#include "runtime/warpgroup_trial.h"

using namespace flrc::gpu;

TEST("trial: products agree up to rounding, and not where one value is wrong or none") {
  const std::vector<std::vector<double>> exact = {{1, -3, 2}, {1e-8}, {}};
  const auto agreeWith = [&](const std::vector<std::vector<double>>& got) {
    return agree([&](int warpgroups) { return warpgroups > 0 ? got : exact; }, 2);
  };
  CHECK(agreeWith(exact));
  CHECK(agreeWith({{1, -3.0005, 2}, {1e-8}, {}}));
  CHECK(!agreeWith({{1, -3, 2.01}, {1e-8}, {}}));
  CHECK(!agreeWith({{1, -3, 2}, {1.1e-8}, {}}));
  CHECK(!agreeWith({{1, NAN, 2}, {1e-8}, {}}));
  CHECK(!agreeWith({{1, -INFINITY, 2}, {1e-8}, {}}));
}

TEST("trial: the emulator's warpgroups are trusted") {
  CHECK(currentDevice().warpgroups > 0);
  CHECK_EQUAL(trustedWarpgroups(), currentDevice().warpgroups);
}
