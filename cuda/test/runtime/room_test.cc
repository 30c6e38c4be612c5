// What is asked for of the device's memory, and what is taken then.

#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "runtime/curves.h"
#include "runtime/memory.h"

using namespace flrc;
using gpu::Failure;
using gpu::ifItFits;

TEST("room: curves take what they ask for, at once but for what rows of the host's need") {
  const BackendCancel never{nullptr, [](void*) { return false; }};
  constexpr int64_t kInputs = 400, kOutputs = 700, kRank = 60, kTokens = 5;
  check::Random random(1);
  const std::vector<float> u = random.floats(kRank * kOutputs), v = random.floats(kRank * kInputs),
                           w = random.floats(kOutputs * kInputs), x = random.floats(kTokens * kInputs),
                           g = random.floats(kTokens * kOutputs);
  // Of fewer ranks than there are, and of all.
  for (const float* whole : {w.data(), static_cast<const float*>(nullptr)}) {
    const std::vector<BackendCurve> of = {{kOutputs, kRank, u.data(), v.data(), whole},
                                          {kInputs, 1, u.data(), v.data(), nullptr}};
    const double asked = DeviceCurves::bytesOf(kInputs, of.data(), std::ssize(of));
    const auto before = static_cast<double>(gpu::freeBytes());
    DeviceCurves curves(kInputs, of.data(), std::ssize(of));
    const auto taken = [&] { return before - static_cast<double>(gpu::freeBytes()); };
    // All but f32 rows on their way to halves.
    const double staged =
        gpu::SplitRows::stagedBytesOf(1024, kInputs) + gpu::SplitRows::stagedBytesOf(kOutputs, kInputs);
    CHECK_AT_MOST(asked - staged, taken());
    CHECK_AT_MOST(taken(), asked);
    std::vector<double> first(kRank + 1), second(2);
    curves.add(x.data(), std::vector<const float*>{g.data(), g.data()}.data(), kTokens,
               std::vector<double*>{first.data(), second.data()}.data(), never);
    CHECK_AT_MOST(taken(), asked);
  }
}

TEST("room: what does not fit after all is done without, and no other failure is") {
  const auto made = [](auto thrown) { return ifItFits([&]() -> std::unique_ptr<int> { throw thrown; }); };
  CHECK(*ifItFits([] { return std::make_unique<int>(7); }) == 7);
  CHECK(!made(Failure(BackendCode::outOfMemory, "none left")));
  CHECK(!made(std::bad_alloc()));
  CHECK(!made(gpu::DeviceFull()));
  bool told = false;
  try {
    made(Failure(BackendCode::device, "lost"));
  } catch (const Failure& failure) {
    told = failure.code == BackendCode::device;
  }
  CHECK(told);
}

TEST("room: memory that is short is told from what else fails, and whose it is") {
  const auto told = [](auto thrown, BackendCode code, const std::string& words) {
    BackendFailure failure{};
    CHECK(gpu::guarded(&failure, [&] { throw thrown; }) == code);
    CHECK(std::string(failure.message).find(words) != std::string::npos);
  };
  told(gpu::DeviceFull(), BackendCode::outOfMemory, "the GPU has no memory left");
  told(std::bad_alloc(), BackendCode::outOfMemory, "on the host");
  told(std::runtime_error("CUDA: lost"), BackendCode::device, "CUDA: lost");
}
