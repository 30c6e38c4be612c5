#include "quantise/metric.h"

#include <algorithm>
#include <numeric>

#include "linalg/blas.h"
#include "linalg/cholesky.h"

namespace flrc {
namespace {

// What keeps a singular matrix positive definite; relative to the mean diagonal.
constexpr double kJitter = 1e-9;

// By falling weight: runs of `together` entries, and the entries of each.
std::vector<int64_t> heaviestFirst(const std::vector<double>& weights, int64_t together) {
  const auto n = static_cast<int64_t>(weights.size());
  std::vector<double> sums(static_cast<size_t>((n + together - 1) / together));
  for (int64_t i = 0; i < n; ++i) sums[static_cast<size_t>(i / together)] += weights[static_cast<size_t>(i)];
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const int64_t runA = a / together, runB = b / together;
    if (runA == runB) return weights[static_cast<size_t>(a)] > weights[static_cast<size_t>(b)];
    const double sumA = sums[static_cast<size_t>(runA)], sumB = sums[static_cast<size_t>(runB)];
    return sumA != sumB ? sumA > sumB : runA < runB;
  });
  return order;
}

}  // namespace

Metric makeMetric(const PackedSymmetric& matrix, double damping, int64_t together, const Job& job) {
  const int64_t n = matrix.n;
  const auto at = [&](int64_t i, int64_t j) {
    return matrix.values[static_cast<size_t>(i > j ? i * (i + 1) / 2 + j : j * (j + 1) / 2 + i)];
  };
  std::vector<double> diagonal;
  for (int64_t i = 0; i < n; ++i) diagonal.push_back(at(i, i));
  Metric metric;
  metric.order = heaviestFirst(diagonal, together);
  // Reversed, its lower Cholesky factor is, reversed again, the upper root.
  PackedSymmetric reversed(n);
  const bool zero = matrix.meanDiagonal() == 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = metric.order[static_cast<size_t>(n - 1 - i)];
    double* to = reversed.values.data() + i * (i + 1) / 2;
    for (int64_t j = 0; j < i; ++j) to[j] = at(row, metric.order[static_cast<size_t>(n - 1 - j)]);
    to[i] = zero ? 1 : at(row, row) * (1 + damping);
  }
  metric.root = cholesky(reversed, kJitter, 1, job);
  std::reverse(metric.root.begin(), metric.root.end());
  return metric;
}

std::vector<double> weighed(const Metric& metric, int64_t rows, const std::vector<double>& x) {
  const int64_t n = metric.size();
  std::vector<double> y(x.size());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      y[static_cast<size_t>(i * n + j)] = x[static_cast<size_t>(i * n + metric.order[static_cast<size_t>(j)])];
    }
  }
  if (y.empty()) return y;
  useOneBlasThread();
  cblas_dtrmm(CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit, blasInt(rows), blasInt(n), 1.0,
              metric.root.data(), blasInt(n), y.data(), blasInt(n));
  return y;
}

void solve(const Metric& metric, int64_t cols, std::vector<double>& x) {
  const int64_t n = metric.size();
  if (x.empty()) return;
  useOneBlasThread();
  std::vector<double> y(x.size());
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(x.begin() + metric.order[static_cast<size_t>(i)] * cols, cols, y.begin() + i * cols);
  }
  for (const CBLAS_TRANSPOSE transposed : {CblasNoTrans, CblasTrans}) {
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasUpper, transposed, CblasNonUnit, blasInt(n), blasInt(cols), 1.0,
                metric.root.data(), blasInt(n), y.data(), blasInt(cols));
  }
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(y.begin() + i * cols, cols, x.begin() + metric.order[static_cast<size_t>(i)] * cols);
  }
}

}  // namespace flrc
