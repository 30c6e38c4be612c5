// Whether warpgroups are trusted.

#include <cmath>
#include <new>
#include <stdexcept>
#include <string>

#include "check.h"
#include "runtime/device_limits.h"
#include "runtime/failure.h"
#include "runtime/notes.h"
#include "runtime/warpgroup_trial.h"

using namespace flrc::gpu;
using flrc::BackendCode;

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

TEST("trial: who is not trusted is told about, once") {
  const Products exact = [](int) { return std::vector<std::vector<double>>{{1, 2}}; };
  const Products wrong = [](int warpgroups) {
    return std::vector<std::vector<double>>{{1, warpgroups > 0 ? 3.0 : 2.0}};
  };
  const Products failing = [](int) -> std::vector<std::vector<double>> { throw std::runtime_error("lost"); };
  const auto trusted = [](const Products& products, int warpgroups) {
    return trustedAt(products, warpgroups, [] { return true; });
  };
  CHECK_EQUAL(trusted(exact, 5), 5);
  CHECK_EQUAL(trusted(wrong, 0), 0);
  const std::string before = notes();
  CHECK(before.find("warpgroup") == std::string::npos);
  CHECK_EQUAL(trusted(wrong, 5), 0);
  const std::string told = notes();
  CHECK(told.find("warpgroup products give other results") != std::string::npos);
  CHECK_EQUAL(trusted(wrong, 5), 0);
  CHECK_EQUAL(notes(), told);
  CHECK_EQUAL(trusted(failing, 5), 0);
  CHECK(notes().find("; warpgroup products fail (lost)") != std::string::npos);
}

TEST("trial: a device that is lost, and memory that is short, are failures and not distrust") {
  const auto codeOf = [](const std::function<void()>& thrown, bool answers) {
    const Products products = [&](int) -> std::vector<std::vector<double>> {
      thrown();
      return {};
    };
    try {
      trustedAt(products, 5, [=] { return answers; });
    } catch (const Failure& failure) {
      return failure.code;
    } catch (const std::bad_alloc&) {
      return BackendCode::outOfMemory;
    }
    return BackendCode::ok;
  };
  const std::string before = notes();
  CHECK(codeOf([] { throw std::runtime_error("fault"); }, false) == BackendCode::device);
  CHECK(codeOf([] { throw Failure(BackendCode::outOfMemory, "none left"); }, true) == BackendCode::outOfMemory);
  CHECK(codeOf([] { throw DeviceFull(); }, true) == BackendCode::outOfMemory);
  CHECK_EQUAL(notes(), before);
}

TEST("trial: the emulator's warpgroups are trusted") {
  CHECK(currentDevice().warpgroups > 0);
  CHECK_EQUAL(trustedWarpgroups(), currentDevice().warpgroups);
}
