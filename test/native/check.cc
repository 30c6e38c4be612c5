#include "check.h"

#include <cstdio>
#include <exception>
#include <mutex>
#include <string_view>

namespace check {
namespace {

constexpr int kPrintedFailures = 10;

std::mutex failureMutex;
int failures = 0;

}  // namespace

std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

void fail(const char* file, int line, const std::string& message) {
  std::lock_guard<std::mutex> guard(failureMutex);
  ++failures;
  if (failures <= kPrintedFailures) std::printf("  %s:%d: %s\n", file, line, message.c_str());
  if (failures == kPrintedFailures + 1) std::printf("  further failures of this test are not shown\n");
}

namespace {

bool passes(const Test& test) {
  failures = 0;
  try {
    test.body();
  } catch (const flrc::Error& error) {
    fail(test.name, 0, std::string("threw ") + error.code + ": " + error.what());
  } catch (const std::exception& error) {
    fail(test.name, 0, std::string("threw ") + error.what());
  }
  return failures == 0;
}

}  // namespace
}  // namespace check

// Given a text, runs the tests that have it in their names; given --names, says all names.
int main(int argc, char** argv) {
  const std::string_view wanted = argc > 1 ? argv[1] : "";
  if (wanted == "--names") {
    for (const check::Test& test : check::tests()) std::printf("%s\n", test.name);
    return 0;
  }
  int passed = 0, failed = 0;
  for (const check::Test& test : check::tests()) {
    if (std::string_view(test.name).find(wanted) == std::string_view::npos) continue;
    const bool ok = check::passes(test);
    std::printf("%s: %s\n", test.name, ok ? "ok" : "FAILED");
    std::fflush(stdout);
    ++(ok ? passed : failed);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
