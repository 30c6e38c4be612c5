#include "linalg/cholesky.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/error.h"
#include "linalg/blas.h"
#include "linalg/gemm.h"
#include "linalg/spread.h"

namespace flrc {
namespace {

constexpr double kMostJitter = 1e-2;
// Where raising starts when no jitter was asked for.
constexpr double kLeastRaisedJitter = 1e-12;
// Rows of a matrix that one thread fills in at once.
constexpr int64_t kFilled = 128;

// Whether the lower triangle of a block, row-major with n values a row, could be replaced by its Cholesky
// factor.
bool factorise(int64_t size, double* block, int64_t n) {
  const int side = blasInt(size), leading = blasInt(n);
  int info = 0;
  // Fortran reads row-major as the transpose: its upper factor is our lower one.
  dpotrf_("U", &side, block, &leading, &info, 1);
  return info == 0;
}

// X becomes scale L^-1 X or scale L^-T X (left), scale X L^-1 or scale X L^-T.
void solve(CBLAS_SIDE side, CBLAS_TRANSPOSE transposed, int64_t rows, int64_t columns, double scale,
           const double* lower, int64_t ldl, double* x, int64_t ldx) {
  cblas_dtrsm(CblasRowMajor, side, CblasLower, transposed, CblasNonUnit, blasInt(rows), blasInt(columns), scale,
              lower, blasInt(ldl), x, blasInt(ldx));
}

// The lower triangle of C [size, size] += scale A A^T, A [size, k], or scale A^T A, A [k, size]; all with n
// values a row.
void addSquare(CBLAS_TRANSPOSE transposed, int64_t size, int64_t k, double scale, const double* a, double* c,
               int64_t n) {
  cblas_dsyrk(CblasRowMajor, CblasLower, transposed, blasInt(size), blasInt(k), scale, a, blasInt(n), 1.0, c,
              blasInt(n));
}

bool replaceByFactor(int64_t n, double* matrix, const Panels& panels, int threads, const Job& job) {
  const int64_t panel = n < panels.whole ? n : panels.width;
  for (int64_t k = 0; k < n; k += panel) {
    const int64_t width = std::min(panel, n - k), below = k + width;
    double* corner = matrix + k * n + k;
    if (!factorise(width, corner, n)) return false;
    double* under = matrix + below * n + k;
    forBands(n - below, panels.band, threads, job, [&](int64_t first, int64_t count) {
      solve(CblasRight, CblasTrans, count, width, 1.0, corner, n, under + first * n, n);
    });
    forLowerTiles(n - below, panel, threads, job,
                  [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
                    const double *left = under + row * n, *right = under + column * n;
                    double* to = matrix + (below + row) * n + below + column;
                    if (row == column) {
                      addSquare(CblasNoTrans, rows, width, -1.0, left, to, n);
                    } else {
                      gemm(false, true, rows, columns, width, -1.0, left, n, right, n, 1.0, to, n);
                    }
                  });
  }
  return true;
}

// One sweep makes the rows of L^-1 = R while the columns of L are eliminated, and adds R^T R up where both are
// done (Bientinesi, Gunter and van de Geijn, Families of algorithms related to the inversion of a symmetric
// positive definite matrix, 2008), so that nothing is needed but the matrix itself, and every step has as much
// to spread.
bool replaceByInverse(int64_t n, double* matrix, const Panels& panels, int threads, const Job& job) {
  const int64_t panel = panels.width;
  std::vector<double> root(static_cast<size_t>(panel * panel)), own(root.size());
  for (int64_t k = 0; k < n; k += panel) {
    const int64_t width = std::min(panel, n - k), below = k + width;
    double *corner = matrix + k * n + k, *before = matrix + k * n, *under = matrix + below * n + k;
    if (!factorise(width, corner, n)) return false;
    for (int64_t i = 0; i < width; ++i) std::copy_n(corner + i * n, width, root.begin() + i * width);
    const auto solveBoth = [&](CBLAS_TRANSPOSE left, CBLAS_TRANSPOSE right, double scale) {
      forBands(k, panels.band, threads, job, [&](int64_t first, int64_t count) {
        solve(CblasLeft, left, width, count, 1.0, root.data(), width, before + first, n);
      });
      forBands(n - below, panels.band, threads, job, [&](int64_t first, int64_t count) {
        solve(CblasRight, right, count, width, scale, root.data(), width, under + first * n, n);
      });
    };
    solveBoth(CblasNoTrans, CblasTrans, 1.0);
    forLowerTiles(n, panel, threads, job, [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
      if (row == k || column == k) return;
      const bool above = row<k, beside = column> k;
      const double* left = above ? before + row : matrix + row * n + k;
      const double* right = beside ? matrix + column * n + k : before + column;
      const double sign = above ? 1.0 : -1.0;
      double* to = matrix + row * n + column;
      if (row == column) {
        addSquare(above ? CblasTrans : CblasNoTrans, rows, width, sign, left, to, n);
      } else {
        gemm(above, beside, rows, columns, width, sign, left, n, right, n, 1.0, to, n);
      }
    });
    solveBoth(CblasTrans, CblasNoTrans, -1.0);
    std::fill_n(own.begin(), width * width, 0.0);
    for (int64_t i = 0; i < width; ++i) own[static_cast<size_t>(i * width + i)] = 1;
    solve(CblasLeft, CblasNoTrans, width, width, 1.0, root.data(), width, own.data(), width);
    cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, blasInt(width), blasInt(width), 1.0, own.data(),
                blasInt(width), 0.0, corner, blasInt(n));
  }
  return true;
}

// Returns the mean of the diagonal.
double fill(int64_t n, const LowerRow& from, double* matrix, int threads, const Job& job) {
  forBands(n, kFilled, threads, job, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      double* row = matrix + i * n;
      from(i, row);
      if (!std::all_of(row, row + i + 1, [](double v) { return std::isfinite(v); }))
        throw Error(code::numeric, "a moment matrix holds a value that is not finite");
    }
  });
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += matrix[i * n + i];
  return n > 0 ? sum / static_cast<double>(n) : 0;
}

// `replace`(matrix), given the lower triangle with zeros above it, says whether it could do its work.
template <typename Replace>
std::vector<double> positive(int64_t n, const LowerRow& from, double jitter, int threads, const Job& job,
                             const Replace& replace) {
  useOneBlasThread();
  std::vector<double> matrix(static_cast<size_t>(n * n));
  double mean = 0;
  for (double added = jitter;; added = std::max(added * 10, kLeastRaisedJitter)) {
    mean = fill(n, from, matrix.data(), threads, job);
    for (int64_t i = 0; i < n; ++i) matrix[static_cast<size_t>(i * n + i)] += added * mean;
    if (replace(matrix.data())) return matrix;
    if (added * 10 > kMostJitter * (1 + 1e-9)) break;
  }
  throw Error(code::numeric, "a moment matrix of size " + std::to_string(n) + " (mean diagonal " +
                                 std::to_string(mean) +
                                 ") is not positive definite; give more calibration text or some shrinkage");
}

LowerRow rowsOf(SymmetricView matrix) {
  return [=](int64_t i, double* to) { std::copy_n(matrix.values + i * (i + 1) / 2, i + 1, to); };
}

}  // namespace

std::vector<double> cholesky(int64_t n, const LowerRow& matrix, double jitter, int threads, const Job& job,
                             const Panels& panels) {
  return positive(n, matrix, jitter, threads, job,
                  [&](double* lower) { return replaceByFactor(n, lower, panels, threads, job); });
}

std::vector<double> cholesky(SymmetricView matrix, double jitter, int threads, const Job& job,
                             const Panels& panels) {
  return cholesky(matrix.n, rowsOf(matrix), jitter, threads, job, panels);
}

std::vector<double> inverse(SymmetricView matrix, double jitter, int threads, const Job& job,
                            const Panels& panels) {
  const int64_t n = matrix.n;
  std::vector<double> full = positive(n, rowsOf(matrix), jitter, threads, job, [&](double* lower) {
    return replaceByInverse(n, lower, panels, threads, job);
  });
  forLowerTiles(n, panels.width, threads, job, [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
    mirrorTile(n, full.data(), row, rows, column, columns);
  });
  return full;
}

}  // namespace flrc
