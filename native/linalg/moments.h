#pragma once

#include <cstdint>
#include <vector>

namespace flrc {

// Sums x x^T over tokens: f32 products of one sequence, added up in fp64, so that a million tokens lose
// nothing. Split into tiles of the lower triangle; different tiles may be added to from different threads,
// and each sums its sequences in the caller's order, whatever the thread count. Tiles lie in the result itself,
// the caller's: a second copy of the largest moment would decide the peak of memory.
class MomentSum {
 public:
  // sum [n (n + 1) / 2], packed as PackedSymmetric is: what the products are added to.
  MomentSum(int64_t n, double* sum);
  int64_t tiles() const { return static_cast<int64_t>(tiles_.size()); }
  // x: [tokens, n], row-major. `product` is working memory.
  void addTile(int64_t tile, const float* x, int64_t tokens, std::vector<float>& product);

 private:
  struct Tile {
    int64_t row, col, rows, cols;
  };
  int64_t n_;
  double* sum_;
  std::vector<Tile> tiles_;
};

// Adds the sums of (factor_t x_ti)^2 over tokens to sums [n]. x: [tokens, n]; factors: [tokens] or empty for 1.
void addSquares(const float* x, const std::vector<float>& factors, int64_t tokens, int64_t n, double* sums);

// Adds the sums of |x_i| over tokens to sums [n]. x: [tokens, n].
void addMagnitudes(const float* x, int64_t tokens, int64_t n, double* sums);

// to [tokens, n]: rows x, each times its factor.
void scaleRows(const float* x, const std::vector<float>& factors, int64_t n, std::vector<float>& to);

// As clipFactors of clipping.h, of gradients g [tokens, m].
std::vector<float> clipFactors(const float* g, int64_t tokens, int64_t m);

}  // namespace flrc
