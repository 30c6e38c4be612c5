#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/job.h"

namespace flrc {

// One block of s ranks of U V (m x n) in pivoted form (design 3): with rows I of the product,
//   y[I] = P x and y[rest] = C (P x), s (m + n - s) numbers instead of s (m + n).
struct PivotedBlock {
  int64_t m = 0, n = 0, rank = 0;
  std::vector<float> p;        // [s, n]
  std::vector<float> c;        // [s, m - s], transposed: c[j, o] weighs t[j] in output rest[o]
  std::vector<int32_t> pivot;  // I, [s], rising; `rest` is every other output, rising
};

// QR with column pivoting of a block's ranks u [s, m], each brought to unit length: which outputs are good
// pivots does not depend on how a rank's scale is split between u and v, but the numerical rank k, which is
// returned, would. column [m]: outputs, the first k being the pivots in the order of their choice. r [m, k]
// (room for [m, s]): R's first k rows, column by column in that order.
using PivotedQr = std::function<int64_t(const float* u, int64_t s, int64_t m, double* r, int32_t* column)>;
// By LAPACK.
int64_t pivotedQr(const float* u, int64_t s, int64_t m, double* r, int32_t* column, const Job& job);

// u: [s, m], v: [s, n] (rank-major, the block's own ranks). I by QR with column pivoting of u and then swaps
// until no entry of C exceeds `bound` (a strong rank-revealing choice; Gu and Eisenstat 1996). Works in fp64;
// a numerically rank-deficient block gets exact zeros in P and C for what it lacks, never NaN.
PivotedBlock pivotBlock(const float* u, const float* v, int64_t s, int64_t m, int64_t n, double bound,
                        const Job& job, const PivotedQr& qr = {});

}  // namespace flrc
