#include "sgemm.h"

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "core/random.h"
#include "core/thread_pool.h"
#include "linalg/gemm.h"

using namespace flrc;

namespace {

constexpr int64_t kSide = 1024;
// Enough that threads which end first make no difference.
constexpr int64_t kProducts = 8;

std::vector<float> matrix(uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(kSide * kSide));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(randomUniform(seed, i)) - 0.5f;
  return values;
}

}  // namespace

void measureSgemm(int wanted, int rounds) {
  const int threads = wanted > 0 ? wanted : ThreadPool::availableCores();
  const std::vector<float> a = matrix(1), b = matrix(2);
  std::vector<std::vector<float>> c(static_cast<size_t>(threads), std::vector<float>(a.size()));
  std::printf("{\"gflops\":[");
  for (int round = 0; round <= rounds; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    ThreadPool::shared().parallelFor(threads, threads, [&](int64_t thread) {
      for (int64_t i = 0; i < kProducts; ++i) {
        gemm(false, false, kSide, kSide, kSide, 1.0f, a.data(), kSide, b.data(), kSide, 0.0f,
             c[static_cast<size_t>(thread)].data(), kSide);
      }
    });
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
    if (round == 0) continue;  // warms up
    const double operations = 2.0 * kSide * kSide * kSide * kProducts * threads;
    std::printf("%s%.4g", round == 1 ? "" : ",", operations / spent.count() / 1e9);
  }
  std::printf("]}\n");
}
