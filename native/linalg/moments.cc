#include "linalg/moments.h"

#include <algorithm>
#include <cmath>

#include "cpu/kernels.h"
#include "linalg/clipping.h"
#include "linalg/gemm.h"

namespace flrc {
namespace {

// Wide enough that packing the inputs costs little beside their product.
constexpr int64_t kTile = 512;

}  // namespace

MomentSum::MomentSum(int64_t n, double* sum) : n_(n), sum_(sum) {
  for (int64_t row = 0; row < n; row += kTile) {
    for (int64_t col = 0; col <= row; col += kTile) {
      tiles_.push_back({row, col, std::min(kTile, n - row), std::min(kTile, n - col)});
    }
  }
}

void MomentSum::addTile(int64_t index, const float* x, int64_t tokens, std::vector<float>& product) {
  const Tile& tile = tiles_[static_cast<size_t>(index)];
  product.resize(static_cast<size_t>(tile.rows * tile.cols));
  const bool diagonal = tile.row == tile.col;
  if (diagonal) {
    gram(tile.rows, tokens, x + tile.row, n_, product.data(), tile.cols);
  } else {
    gemm(true, false, tile.rows, tile.cols, tokens, 1.0f, x + tile.row, n_, x + tile.col, n_, 0.0f,
         product.data(), tile.cols);
  }
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t row = tile.row + r, cols = diagonal ? r + 1 : tile.cols;
    const float* from = product.data() + r * tile.cols;
    double* to = sum_ + row * (row + 1) / 2 + tile.col;
    for (int64_t c = 0; c < cols; ++c) to[c] += from[c];
  }
}

void addSquares(const float* x, const std::vector<float>& factors, int64_t tokens, int64_t n, double* sums) {
  for (int64_t t = 0; t < tokens; ++t) {
    const double factor = factors.empty() ? 1 : factors[static_cast<size_t>(t)];
    for (int64_t i = 0; i < n; ++i) {
      const double value = factor * x[t * n + i];
      sums[i] += value * value;
    }
  }
}

void addMagnitudes(const float* x, int64_t tokens, int64_t n, double* sums) {
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < n; ++i) sums[i] += std::fabs(static_cast<double>(x[t * n + i]));
  }
}

void scaleRows(const float* x, const std::vector<float>& factors, int64_t n, std::vector<float>& to) {
  to.resize(factors.size() * static_cast<size_t>(n));
  float* at = to.data();
  for (float factor : factors) {
    for (int64_t i = 0; i < n; ++i) *at++ = *x++ * factor;
  }
}

std::vector<float> clipFactors(const float* g, int64_t tokens, int64_t m) {
  std::vector<double> norms(static_cast<size_t>(tokens));
  for (int64_t t = 0; t < tokens; ++t) {
    norms[static_cast<size_t>(t)] = std::sqrt(static_cast<double>(cpu::kernels().dot(g + t * m, g + t * m, m)));
  }
  return clipFactors(norms);
}

}  // namespace flrc
