#pragma once

#include <cstdint>
#include <vector>

namespace flrc {

// Adds one sequence to a projection's truncation curve (design 3, token form):
//   E(r) += 1/2 sum_t (g_t . W x_t - sum_{j < r} c_tj)^2,  c_tj = (u_j . g_t)(v_j . x_t),  r = 0..rank.
// x: [tokens, n], g: [tokens, m], u: [rank, m], v: [rank, n]. `w` [m, n] is needed when the factors hold fewer
// than all ranks; null means that all c_tj sum to g_t . W x_t. curve: [rank + 1].
void addTruncationCurve(const float* x, const float* g, const float* u, const float* v, const float* w,
                        int64_t tokens, int64_t m, int64_t n, int64_t rank, double* curve);

}  // namespace flrc
