#include "linalg/fisher.h"

#include <algorithm>
#include <vector>

#include "cpu/kernels.h"
#include "linalg/bf16_gemm.h"
#include "linalg/gemm.h"

namespace flrc {
namespace {

// Rows of G formed at once: enough that packing x for each tile costs little beside the product.
constexpr int64_t kTileRows = 256;

}  // namespace

FisherScore& FisherScore::operator+=(const FisherScore& other) {
  weighted += other.weighted;
  gradient += other.gradient;
  taylor += other.taylor;
  return *this;
}

FisherScore fisherScore(const float* x, const float* g, const float* w, int64_t tokens, int64_t m, int64_t n,
                        bool rounds) {
  cpu::Bf16Panels inputs;
  if (rounds) setRows(x, n, tokens, n, inputs);
  std::vector<float> tile(static_cast<size_t>(std::min(kTileRows, m) * n));
  double sums[3] = {0, 0, 0};
  for (int64_t row = 0; row < m; row += kTileRows) {
    const int64_t rows = std::min(kTileRows, m - row);
    if (rounds) {
      bf16TransposedTimes(rows, g + row, m, inputs, false, tile.data(), n);
    } else {
      gemm(true, false, rows, n, tokens, 1.0f, g + row, m, x, n, 0.0f, tile.data(), n);
    }
    cpu::kernels().fisherReduce(tile.data(), w + row * n, rows * n, sums);
  }
  return {sums[0], sums[1], sums[2]};
}

}  // namespace flrc
