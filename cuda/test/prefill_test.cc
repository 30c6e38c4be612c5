// Prefill attention of kernels/attention.h against fp64.

#include <cmath>

#include "check.h"
#include "kernels/attention.h"
#include "tensor/dtype.h"
#include "test/device.h"

using namespace flrc::gpu;
using test::Array;
using test::Device;

namespace {

struct PrefillCase {
  int heads, kvHeads, headDim, window, first, count;
};

std::vector<uint16_t> randomHalves(check::Random& random, int64_t count) {
  std::vector<uint16_t> bits;
  for (const float value : random.floats(count)) bits.push_back(flrc::floatToBf16(value));
  return bits;
}

void checkCase(const PrefillCase& one, uint64_t seed) {
  check::Random random(seed);
  const int width = one.heads * one.headDim, kvWidth = one.kvHeads * one.headDim, end = one.first + one.count;
  const std::vector<float> q = random.floats(int64_t{one.count} * width);
  const std::vector<uint16_t> keys = randomHalves(random, int64_t{end} * kvWidth),
                              values = randomHalves(random, int64_t{end} * kvWidth);
  Array<float> query(q), out(q.size());
  Array<uint16_t> k(keys), v(values);
  Device device(seed);
  launchPrefillAttention(device.stream(), {query.read(), out.global(), one.heads, one.kvHeads, one.headDim,
                                           one.window, k.read(), v.read(), one.first, one.count});
  device.synchronise();
  const std::vector<float> got = out.download();
  for (int row = 0; row < one.count; ++row) {
    const int position = one.first + row, begin = one.window > 0 ? std::max(0, position + 1 - one.window) : 0;
    for (int head = 0; head < one.heads; ++head) {
      const int kvHead = head / (one.heads / one.kvHeads);
      const auto cached = [&](const std::vector<uint16_t>& cache, int t, int i) {
        return static_cast<double>(
            flrc::bf16ToFloat(cache[static_cast<size_t>(t * kvWidth + kvHead * one.headDim + i)]));
      };
      std::vector<double> weights;
      double error = 0, most = -1e300, sum = 0;
      for (int t = begin; t <= position; ++t) {
        double dot = 0, size = 0;
        for (int i = 0; i < one.headDim; ++i) {
          const double term =
              static_cast<double>(q[static_cast<size_t>(row * width + head * one.headDim + i)]) *
              cached(keys, t, i);
          dot += term;
          size += std::abs(term);
        }
        weights.push_back(dot / std::sqrt(one.headDim));
        most = std::max(most, weights.back());
        // Queries are rounded to bf16; their products are added up in f32.
        error = std::max(error, (0x1p-9 + (one.headDim + 4) * 0x1p-24) * size / std::sqrt(one.headDim));
      }
      for (double& weight : weights) sum += weight = std::exp(weight - most);
      for (int i = 0; i < one.headDim; ++i) {
        double expected = 0, size = 0;
        for (int t = begin; t <= position; ++t) {
          const double term = weights[static_cast<size_t>(t - begin)] / sum * cached(values, t, i);
          expected += term;
          size += std::abs(term);
        }
        // Scores err by `error`, which the weights and their sum both feel; weights are rounded to bf16.
        CHECK_NEAR(got[static_cast<size_t>(row * width + head * one.headDim + i)], expected,
                   (std::expm1(2 * error) + 0x1p-9 + (position + 16) * 0x1p-24) * size);
      }
    }
  }
}

}  // namespace

TEST("prefill attention: any chunk, group of heads, window and head") {
  uint64_t seed = 1;
  for (const PrefillCase& one :
       {PrefillCase{2, 1, 16, 0, 0, 70}, PrefillCase{3, 1, 64, 0, 37, 65}, PrefillCase{2, 2, 80, 0, 0, 17},
        PrefillCase{2, 1, 128, 50, 60, 80}, PrefillCase{1, 1, 256, 0, 5, 3},
        PrefillCase{2, 1, 256, 40, 70, 130}, PrefillCase{2, 1, 40, 10, 0, 129}}) {
    checkCase(one, ++seed);
  }
}
