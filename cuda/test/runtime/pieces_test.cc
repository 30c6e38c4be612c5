// In what launches long work is divided.

#include "runtime/pieces.h"

#include <utility>
#include <vector>

#include "check.h"

using namespace flrc;
using namespace flrc::gpu;

namespace {

using Ranges = std::vector<std::pair<int64_t, int64_t>>;

Ranges rangesOf(int64_t all, int64_t tile, double flops) {
  const BackendCancel cancel{nullptr, [](void*) { return false; }};
  Pieces pieces(cancel);
  Ranges ranges;
  pieces.multiplyEach(all, tile, flops,
                      [&](int64_t first, int64_t count) { ranges.emplace_back(first, count); });
  return ranges;
}

}  // namespace

TEST("pieces: one launch has as many whole tiles as it may take, and one at least") {
  CHECK(rangesOf(300, 128, kTensorFlopsPerLaunch / 300) == Ranges({{0, 256}, {256, 44}}));
  CHECK(rangesOf(300, 128, kTensorFlopsPerLaunch / 400) == Ranges({{0, 300}}));
  CHECK(rangesOf(300, 128, kTensorFlopsPerLaunch) == Ranges({{0, 128}, {128, 128}, {256, 44}}));
  CHECK(rangesOf(0, 128, 1).empty());
}
