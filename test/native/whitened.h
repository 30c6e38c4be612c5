#pragma once

#include <cstdint>
#include <vector>

#include "linalg/factors.h"
#include "reference.h"

namespace whitened {

using flrc::PackedSymmetric;
using reference::Matrix;

// A projection with samples of its inputs and gradients. Since A = X^T X and B = G^T G, the whitened norm of
// R is the norm of G R X^T, whatever square roots are taken, and even where A or B is singular.
struct Problem {
  int64_t m, n;
  std::vector<float> w;
  Matrix x, g;
  bool useA, useB;
  PackedSymmetric a, b;

  // tokens: samples on each side. decay: how many powers of ten the input features' scales span. whitening: 1
  // by A, 2 by B.
  Problem(uint64_t seed, int64_t rows, int64_t cols, int64_t tokensX, int64_t tokensG, double decay,
          int whitening);

  const PackedSymmetric* momentA() const { return useA ? &a : nullptr; }
  const PackedSymmetric* momentB() const { return useB ? &b : nullptr; }

  Matrix whitened(const Matrix& residual) const;
  // Of the first `rank` ranks of U [rank, m] and V [rank, n].
  double error(const float* u, const float* v, int64_t rank) const;
  double error(const flrc::NestedFactors& factors, int64_t rank) const {
    return error(factors.u.data(), factors.v.data(), rank);
  }
  std::vector<double> singular() const;
};

// e_r* for every r up to `ranks`: the norms of the singular values' tails.
std::vector<double> optimalErrors(const std::vector<double>& singular, int64_t ranks);

}  // namespace whitened
