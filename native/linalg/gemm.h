#pragma once

#include <cstdint>
#include <string>

namespace flrc {

// Row-major products on the calling thread (OpenBLAS, one thread each; callers spread tiles over the pool).
// C [m, n] = alpha A B + beta C, where A is [m, k] (or [k, m] if transA) and B is [k, n] (or [n, k]).
void gemm(bool transA, bool transB, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
          const float* b, int64_t ldb, float beta, float* c, int64_t ldc);
void gemm(bool transA, bool transB, int64_t m, int64_t n, int64_t k, double alpha, const double* a, int64_t lda,
          const double* b, int64_t ldb, double beta, double* c, int64_t ldc);

// The lower triangle of C [n, n] = A^T A, where A is [k, n]; what lies above it is left as it is.
void gram(int64_t n, int64_t k, const float* a, int64_t lda, float* c, int64_t ldc);

// The BLAS in use and the processor kind it chose, for reports.
std::string blasName();

}  // namespace flrc
