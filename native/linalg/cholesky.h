#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/job.h"
#include "linalg/symmetric.h"

namespace flrc {

// Writes row i, [i + 1], of the lower triangle of a symmetric matrix; called from several threads at once.
using LowerRow = std::function<void(int64_t i, double* to)>;

// How large matrices are divided; another division rounds otherwise.
struct Panels {
  // A smaller matrix is factored by one LAPACK call: it takes a tenth of a second.
  int64_t whole = 2048;
  // Columns that are eliminated at once, and the side of the tiles that are then brought up to date.
  int64_t width = 512;
  // Rows or columns of a panel that are solved for at once.
  int64_t band = 128;
};

// The lower Cholesky factor, row-major [n, n], of M + jitter * mean(diag M) I. Raises the jitter tenfold
// (at most 1e-2) while the matrix is not numerically positive definite; E_NUMERIC if it never is. The same at
// any number of threads.
std::vector<double> cholesky(int64_t n, const LowerRow& matrix, double jitter, int threads, const Job& job,
                             const Panels& panels = Panels());
std::vector<double> cholesky(SymmetricView matrix, double jitter, int threads = 1, const Job& job = Job(),
                             const Panels& panels = Panels());

// (M + jitter * mean(diag M) I)^-1, row-major [n, n], the jitter raised alike; in no more memory than that.
std::vector<double> inverse(SymmetricView matrix, double jitter, int threads, const Job& job,
                            const Panels& panels = Panels());

}  // namespace flrc
