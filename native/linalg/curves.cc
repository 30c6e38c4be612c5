#include "linalg/curves.h"

#include <algorithm>

#include "cpu/kernels.h"
#include "linalg/gemm.h"

namespace flrc {
namespace {

// Tokens whose products are held at once, and those whose running sums go side by side.
constexpr int64_t kTokens = 256;
constexpr int64_t kLanes = 8;

}  // namespace

void addTruncationCurve(const float* x, const float* g, const float* u, const float* v, const float* w,
                        int64_t tokens, int64_t m, int64_t n, int64_t rank, double* curve) {
  std::vector<float> ug(static_cast<size_t>(kTokens * rank)), vx(ug.size()), wx;
  for (int64_t first = 0; first < tokens; first += kTokens) {
    const int64_t count = std::min(kTokens, tokens - first);
    gemm(false, true, count, rank, m, 1.0f, g + first * m, m, u, m, 0.0f, ug.data(), rank);
    gemm(false, true, count, rank, n, 1.0f, x + first * n, n, v, n, 0.0f, vx.data(), rank);
    if (w) {
      wx.resize(static_cast<size_t>(count * m));
      gemm(false, true, count, m, n, 1.0f, x + first * n, n, w, n, 0.0f, wx.data(), m);
    }
    for (int64_t t = 0; t < count; t += kLanes) {
      const int64_t lanes = std::min(kLanes, count - t);
      // What is cut at rank r is what the ranks beyond r hold: summed from the last, nothing cancels.
      double cut[kLanes] = {};
      if (w) {
        for (int64_t i = 0; i < lanes; ++i) {
          const int64_t row = t + i;
          cut[i] = cpu::kernels().dot(g + (first + row) * m, wx.data() + row * m, m);
          for (int64_t j = 0; j < rank; ++j) {
            cut[i] -= static_cast<double>(ug[static_cast<size_t>(row * rank + j)]) *
                      vx[static_cast<size_t>(row * rank + j)];
          }
        }
      }
      for (int64_t j = rank; j >= 0; --j) {
        double squares = 0;
        for (int64_t i = 0; i < lanes; ++i) {
          squares += cut[i] * cut[i];
          if (j == 0) continue;
          const auto at = static_cast<size_t>((t + i) * rank + j - 1);
          cut[i] += static_cast<double>(ug[at]) * vx[at];
        }
        curve[j] += 0.5 * squares;
      }
    }
  }
}

}  // namespace flrc
