#include "linalg/symmetric.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "linalg/blas.h"

namespace flrc {
double PackedSymmetric::meanDiagonal() const { return SymmetricView(this).meanDiagonal(); }

std::vector<double> PackedSymmetric::dense() const { return SymmetricView(this).dense(); }

void PackedSymmetric::shrinkToDiagonal(double share) {
  for (int64_t i = 0; i < n; ++i) {
    double* row = values.data() + i * (i + 1) / 2;
    for (int64_t j = 0; j < i; ++j) row[j] *= 1 - share;
  }
}

double SymmetricView::meanDiagonal() const {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += values[i * (i + 1) / 2 + i];
  return n > 0 ? sum / static_cast<double>(n) : 0;
}

std::vector<double> SymmetricView::dense() const {
  std::vector<double> full(static_cast<size_t>(n * n));
  // In square blocks, or the mirrored writes miss the cache on every element.
  constexpr int64_t kBlock = 64;
  for (int64_t i0 = 0; i0 < n; i0 += kBlock) {
    for (int64_t j0 = 0; j0 <= i0; j0 += kBlock) {
      for (int64_t i = i0; i < std::min(n, i0 + kBlock); ++i) {
        const double* row = values + i * (i + 1) / 2;
        for (int64_t j = j0; j < std::min(i + 1, j0 + kBlock); ++j) {
          full[static_cast<size_t>(i * n + j)] = row[j];
          full[static_cast<size_t>(j * n + i)] = row[j];
        }
      }
    }
  }
  return full;
}

void eigenSymmetric(int64_t n, std::vector<double>& matrix, std::vector<double>& values,
                    std::vector<double>& vectors) {
  useOneBlasThread();
  values.assign(static_cast<size_t>(n), 0);
  vectors.assign(static_cast<size_t>(n * n), 0);
  if (n == 0) return;

  const int size = blasInt(n);
  double bestWork = 0;
  int bestInts = 0, info = 0, query = -1;
  std::vector<double> rising(static_cast<size_t>(n));
  dsyevd_("V", "U", &size, matrix.data(), &size, rising.data(), &bestWork, &query, &bestInts, &query, &info, 1,
          1);
  const int workSize = blasInt(static_cast<int64_t>(bestWork));
  std::vector<double> work(static_cast<size_t>(workSize));
  std::vector<int> ints(static_cast<size_t>(bestInts));
  dsyevd_("V", "U", &size, matrix.data(), &size, rising.data(), work.data(), &workSize, ints.data(), &bestInts,
          &info, 1, 1);
  if (info != 0) {
    throw Error(code::numeric, "the eigenvalues of a matrix of size " + std::to_string(n) +
                                   " did not converge (dsyevd " + std::to_string(info) + ")");
  }
  // LAPACK sorts rising and leaves eigenvectors as columns, which are rows here.
  for (int64_t i = 0; i < n; ++i) {
    values[static_cast<size_t>(i)] = rising[static_cast<size_t>(n - 1 - i)];
    std::copy_n(matrix.begin() + (n - 1 - i) * n, n, vectors.begin() + i * n);
  }
}

}  // namespace flrc
