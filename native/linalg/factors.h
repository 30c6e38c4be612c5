#pragma once

#include <cstdint>
#include <vector>

#include "core/job.h"
#include "linalg/symmetric.h"

namespace flrc {

// U V of a projection W (m x n), ordered by importance: the first r rows of both are the best rank-r
// approximation in || Lb^T (W - U V) La ||.
struct NestedFactors {
  int64_t m = 0, n = 0, rank = 0;
  std::vector<float> u;          // [rank, m], rank-major
  std::vector<float> v;          // [rank, n]
  std::vector<double> singular;  // [rank], of Lb^T W La, falling
  double totalSquares = 0;       // || Lb^T W La ||_F^2, the error at rank 0 squared
};

struct FactorOptions {
  double jitter = 1e-8;     // relative to the mean diagonal, of the matrix that must be inverted
  int64_t rank = 0;         // how many ranks are wanted; 0 or >= min(m, n): all
  bool randomised = false;  // Gaussian sketch instead of the all-rank eigenproblem
  int oversampling = 16;
  int powerIterations = 4;
  uint64_t seed = 0;
};

// a: sum x x^T (n x n) or none for the identity; b: sum g g^T (m x m) or none. W row-major [m, n].
// The wide side's moment is only ever needed through W, so `seen`, square on the thin side, may stand in for it
// (which is then none): W^T B W (n x n) for m > n, the sum over tokens of (W^T g)(W^T g)^T, and W A W^T (m x m)
// for m <= n, that of (W x)(W x)^T. All-rank route (design 3): the symmetric eigenproblem on the thin side, in
// fp64. Randomised route: of the same whitened matrix, error at most 1.01 of the optimum at every rank.
NestedFactors nestedFactors(const float* w, int64_t m, int64_t n, SymmetricView a, SymmetricView b,
                            const FactorOptions& options, const Job& job, SymmetricView seen = nullptr);

// || Lb^T (W - U_r V_r) La ||_F for every r in ranks, computed directly (tests, reports). [ranks.size()]
std::vector<double> truncationErrors(const float* w, const NestedFactors& factors, SymmetricView a,
                                     SymmetricView b, const std::vector<int64_t>& ranks);

}  // namespace flrc
