#include <algorithm>
#include <cmath>
#include <cstdint>
#include <exception>
#include <new>

#include "kernels/calibrate.h"
#include "kernels/layout.h"
#include "runtime/device_limits.h"
#include "runtime/failure.h"
#include "runtime/memory.h"
#include "runtime/notes.h"
#include "runtime/warpgroup_trial.h"

namespace flrc::gpu {
namespace {

// More than a tile has of everything, and no multiples, but rows, of which a product's widest tile has as many;
// tokens enough for one warpgroup to run behind the other.
constexpr int kRows = 248, kWidth = 264, kTokens = 200, kSequences = 2;
constexpr int kAll = kSequences * kTokens;

// Values in [-1, 1), without a pattern that a wrong place could repeat.
Buffer<uint16_t> scattered(int64_t count, uint32_t seed) {
  std::vector<uint16_t> values;
  for (int64_t i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    values.push_back(floatToBf16(static_cast<float>(static_cast<int32_t>(seed)) * 0x1p-31f));
  }
  return {values.data(), values.size()};
}

template <typename T>
Buffer<T> zeros(int64_t count) {
  const std::vector<T> values(static_cast<size_t>(count));
  return {values.data(), values.size()};
}

template <typename T>
std::vector<double> fetched(Queue& queue, const Buffer<T>& from) {
  std::vector<T> values(from.count());
  queue.download(from, 0, values.size(), values.data());
  return {values.begin(), values.end()};
}

// All that kernels/calibrate.h makes by warpgroups.
std::vector<std::vector<double>> made(int warpgroups) {
  Queue queue;
  const Buffer<uint16_t> g = scattered(kAll * kRows, 1), x = scattered(kAll * kWidth, 2),
                         low = scattered(kAll * kWidth, 3), factors = scattered(kRows * kWidth, 4),
                         gLow = scattered(kAll * kRows, 5), factorsLow = scattered(kRows * kWidth, 6);
  const Activations ofG{g.read(), kRows, kRows}, ofX{x.read(), kWidth, kWidth};

  const Buffer<uint16_t> weights = scattered(kRows * rowStrips(Dtype::bf16, kWidth) * kStripBytes / 2, 7);
  FisherParams fisher{ofG,     ofX,    {kSequences, kTokens}, pointerCast<const uint8_t>(weights.read()),
                      nullptr, nullptr};
  const Buffer<double> partial(static_cast<size_t>(fisherPartials(fisher))), scores = zeros<double>(3);
  fisher.partial = partial.global();
  fisher.sums = scores.global();
  launchFisher(queue.stream(), Dtype::bf16, fisher, warpgroups);

  const Buffer<double> moment = zeros<double>(int64_t{kWidth} * (kWidth + 1) / 2);
  launchMoment(queue.stream(), {ofX, low.read(), {kSequences, kTokens}, moment.global()}, warpgroups);

  std::vector<std::vector<double>> all = {fetched(queue, scores), fetched(queue, moment)};
  // So few tiles are narrow on a whole chip, and wide on the multiprocessors of one cluster.
  constexpr int kFew = 2;
  for (const int some : {warpgroups, std::min(warpgroups, kFew)}) {
    const Buffer<float> forward = zeros<float>(kAll * kRows), back = zeros<float>(kAll * kRows);
    launchThinProduct(
        queue.stream(),
        {ofX, low.read(), kAll, factors.read(), factorsLow.read(), kWidth, kRows, forward.global(), kRows},
        some);
    launchThinProduct(
        queue.stream(),
        {ofG, gLow.read(), kAll, factors.read(), factorsLow.read(), kWidth, kRows, back.global(), kRows, true},
        some);
    all.push_back(fetched(queue, forward));
    all.push_back(fetched(queue, back));
  }
  return all;
}

}  // namespace

bool agree(const Products& products, int warpgroups) {
  // Sums of some hundred terms, in another order: far from what a value in a wrong place would do.
  constexpr double kRounding = 0x1p-12;
  const auto with = products(warpgroups), without = products(0);
  for (size_t i = 0; i < without.size(); ++i) {
    double most = 0;
    for (const double value : without[i]) most = std::max(most, std::abs(value));
    for (size_t j = 0; j < without[i].size(); ++j) {
      // Not the other way round: NaN is no agreement.
      if (!(std::abs(with[i][j] - without[i][j]) <= kRounding * most)) return false;
    }
  }
  return true;
}

int trustedAt(const Products& products, int warpgroups, const std::function<bool()>& answers) {
  if (warpgroups == 0) return 0;
  std::string why = "give other results";
  try {
    if (agree(products, warpgroups)) return warpgroups;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& thrown) {
    const auto* failure = dynamic_cast<const Failure*>(&thrown);
    if (failure && failure->code == BackendCode::outOfMemory) throw;
    why = std::string("fail (") + thrown.what() + ")";
    if (!answers()) {
      throw Failure(BackendCode::device, "warpgroup products " + why +
                                             " on this GPU, which then does nothing more for this process; "
                                             "calibrate on the CPU (device cpu)");
    }
  }
  note("warpgroup products " + why +
       " on this GPU and are left out, so that calibrating takes several times as long");
  return 0;
}

int trustedWarpgroups() {
  static const int trusted = trustedAt(made, currentDevice().warpgroups, deviceAnswers);
  return trusted;
}

}  // namespace flrc::gpu
