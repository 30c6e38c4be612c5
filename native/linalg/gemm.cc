#include "linalg/gemm.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <string>

#include "core/error.h"
#include "linalg/blas.h"

namespace flrc {
namespace {

CBLAS_TRANSPOSE transposed(bool yes) { return yes ? CblasTrans : CblasNoTrans; }

// BLAS refuses a leading dimension of 0, even where nothing is read.
int leading(int64_t value) { return std::max(1, blasInt(value)); }

}  // namespace

int blasInt(int64_t value) {
  if (value < 0 || value > std::numeric_limits<int>::max()) {
    throw Error(code::internal, "a dimension of " + std::to_string(value) + " is beyond what BLAS can address");
  }
  return static_cast<int>(value);
}

void useOneBlasThread() {
  static std::once_flag once;
  std::call_once(once, [] { openblas_set_num_threads(1); });
}

void gemm(bool transA, bool transB, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
          const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  useOneBlasThread();
  cblas_sgemm(CblasRowMajor, transposed(transA), transposed(transB), blasInt(m), blasInt(n), blasInt(k), alpha,
              a, leading(lda), b, leading(ldb), beta, c, leading(ldc));
}

void gemm(bool transA, bool transB, int64_t m, int64_t n, int64_t k, double alpha, const double* a, int64_t lda,
          const double* b, int64_t ldb, double beta, double* c, int64_t ldc) {
  useOneBlasThread();
  cblas_dgemm(CblasRowMajor, transposed(transA), transposed(transB), blasInt(m), blasInt(n), blasInt(k), alpha,
              a, leading(lda), b, leading(ldb), beta, c, leading(ldc));
}

void gram(int64_t n, int64_t k, const float* a, int64_t lda, float* c, int64_t ldc) {
  useOneBlasThread();
  cblas_ssyrk(CblasRowMajor, CblasLower, CblasTrans, blasInt(n), blasInt(k), 1.0f, a, leading(lda), 0.0f, c,
              leading(ldc));
}

std::string blasName() { return std::string("OpenBLAS, ") + openblas_get_corename(); }

}  // namespace flrc
