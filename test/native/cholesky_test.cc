// Cholesky factors and inverses of moments, against plain products.
#include "linalg/cholesky.h"

#include <atomic>
#include <cmath>
#include <limits>

#include "check.h"
#include "reference.h"

using namespace flrc;
using reference::Matrix;

namespace {

constexpr double kEpsilon = 0x1p-53;

// Small ones, since matrices of several real ones take minutes on an emulated processor.
constexpr Panels kSmall{64, 48, 20};

Matrix randomMatrix(check::Random& random, int64_t rows, int64_t cols) {
  Matrix a(rows, cols);
  for (double& value : a.values) value = random.normal();
  return a;
}

// Of a few directions and a diagonal.
PackedSymmetric large(int64_t n) {
  check::Random random(5);
  PackedSymmetric packed = reference::moment(randomMatrix(random, 12, n));
  packed.shrinkToDiagonal(0.3);
  return packed;
}

// M x, and |M| |x|; row-major [n, n], of which `lower` says that nothing above the diagonal counts.
struct Applied {
  std::vector<double> value, size;
};
Applied applied(int64_t n, const std::vector<double>& matrix, const Applied& x, bool lower, bool transposed) {
  Applied y{std::vector<double>(x.value.size()), std::vector<double>(x.value.size())};
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < (lower ? i + 1 : n); ++j) {
      const auto from = static_cast<size_t>(transposed ? i : j), to = static_cast<size_t>(transposed ? j : i);
      const double entry = matrix[static_cast<size_t>(i * n + j)];
      y.value[to] += entry * x.value[from];
      y.size[to] += std::abs(entry) * x.size[from];
    }
  }
  return y;
}
Applied probe(int64_t n) {
  check::Random random(6);
  Applied x;
  for (int64_t i = 0; i < n; ++i) x.value.push_back(random.normal());
  for (double value : x.value) x.size.push_back(std::abs(value));
  return x;
}

double trace(const std::vector<double>& matrix, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += matrix[static_cast<size_t>(i * n + i)];
  return sum;
}

// The identity, but for its last rows, which want `jitter` to be positive definite.
PackedSymmetric lateFailure(int64_t n, double jitter) {
  PackedSymmetric packed(n);
  for (int64_t i = 0; i < n; ++i) packed.values[static_cast<size_t>(i * (i + 1) / 2 + i)] = 1;
  packed.values[static_cast<size_t>(n * (n + 1) / 2 - 2)] = 1 + jitter;
  return packed;
}

}  // namespace

TEST("cholesky: L L^T is the matrix with its jitter, L is lower triangular") {
  check::Random random(2);
  for (const int64_t n : {1, 2, 33, 90}) {
    const PackedSymmetric packed = reference::moment(randomMatrix(random, 2 * n, n));
    for (const double jitter : {0.0, 1e-8, 1e-2}) {
      Matrix lower(n, n);
      lower.values = cholesky(packed, jitter);
      Matrix expected(n, n);
      expected.values = packed.dense();
      for (int64_t i = 0; i < n; ++i) {
        expected.at(i, i) += jitter * packed.meanDiagonal();
        for (int64_t j = i + 1; j < n; ++j) CHECK_EQUAL(lower.at(i, j), 0.0);
      }
      const Matrix back = reference::product(lower, reference::transpose(lower));
      // Backward error of Cholesky: (n + 1) eps |L| |L|^T.
      CHECK_AT_MOST(reference::norm(reference::difference(back, expected)),
                    static_cast<double>(n + 1) * 0x1p-52 * reference::norm(expected));
    }
  }
}

TEST("cholesky: a singular matrix gets more jitter, an indefinite or broken one is E_NUMERIC") {
  check::Random random(3);
  const int64_t n = 40;
  const PackedSymmetric singular = reference::moment(randomMatrix(random, 10, n));
  for (const double value : cholesky(singular, 0)) CHECK(std::isfinite(value));

  PackedSymmetric indefinite(n);
  for (int64_t i = 0; i < n; ++i)
    indefinite.values[static_cast<size_t>(i * (i + 1) / 2 + i)] = i == 3 ? -1.0 : 1.0;
  CHECK_THROWS(code::numeric, cholesky(indefinite, 1e-8));
  CHECK_THROWS(code::numeric, cholesky(PackedSymmetric(n), 1e-8));
  PackedSymmetric broken = singular;
  broken.values[7] = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS(code::numeric, cholesky(broken, 1e-8));
}

TEST("cholesky: a large matrix is factored in panels, to the same bits at any number of threads") {
  // Whole panels and a rest.
  for (const int64_t n : {64, 192, 230}) {
    const PackedSymmetric packed = large(n);
    const std::vector<double> lower = cholesky(packed, 0, 3, Job(), kSmall);
    CHECK(lower == cholesky(packed, 0, 1, Job(), kSmall));
    bool triangular = true;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i + 1; j < n; ++j) triangular = triangular && lower[static_cast<size_t>(i * n + j)] == 0;
    }
    CHECK(triangular);
    const Applied x = probe(n), expected = applied(n, packed.dense(), x, false, false);
    const Applied back = applied(n, lower, applied(n, lower, x, true, true), true, false);
    // |L L^T - M| <= (n + 1) eps |L| |L|^T, and as much for each of the three products here.
    for (size_t i = 0; i < x.value.size(); ++i) {
      const double tolerance = 4 * static_cast<double>(n + 1) * kEpsilon * (back.size[i] + expected.size[i]);
      CHECK_NEAR(back.value[i], expected.value[i], tolerance);
    }
  }
}

TEST("cholesky: where a late panel fails, more jitter is added to the matrix as it was") {
  const int64_t n = 210;
  const std::vector<double> lower = cholesky(lateFailure(n, 3e-7), 1e-10, 2, Job(), kSmall);
  for (const int64_t i : {int64_t{0}, int64_t{70}, n - 2}) {
    const double root = lower[static_cast<size_t>(i * n + i)];
    CHECK_NEAR(root * root, 1 + 1e-6, 1e-14);
  }
  CHECK_NEAR(lower[static_cast<size_t>(n * n - 2)] * lower[static_cast<size_t>((n - 1) * n - 2)], 1 + 3e-7,
             1e-14);
}

TEST("cholesky: cancelled between panels") {
  const int64_t n = 210;
  const PackedSymmetric packed = large(n);
  Job job;
  std::atomic<int64_t> rows{0};
  const LowerRow row = [&](int64_t i, double* to) {
    std::copy_n(packed.values.begin() + i * (i + 1) / 2, i + 1, to);
    if (++rows == n) job.cancel();
  };
  CHECK_THROWS(code::aborted, cholesky(n, row, 0, 2, job, kSmall));
  CHECK_EQUAL(rows.load(), n);
}

TEST("inverse: times the matrix it is the identity, at any size and number of threads") {
  // Less than a panel, and up to four of them.
  for (const int64_t n : {1, 2, 47, 48, 49, 96, 150, 192}) {
    const PackedSymmetric packed = large(n);
    const std::vector<double> inverted = inverse(packed, 0, 3, Job(), kSmall), dense = packed.dense();
    CHECK(inverted == inverse(packed, 0, 1, Job(), kSmall));
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < i; ++j) {
        if (inverted[static_cast<size_t>(i * n + j)] == inverted[static_cast<size_t>(j * n + i)]) continue;
        CHECK_EQUAL(inverted[static_cast<size_t>(i * n + j)], inverted[static_cast<size_t>(j * n + i)]);
      }
    }
    const Applied x = probe(n);
    const Applied back = applied(n, dense, applied(n, inverted, x, false, false), false, false);
    double length = 0;
    for (double value : x.value) length += value * value;
    // Each stage errs by n eps of products of L, L^-1 and their transposes, whose squares sum to the traces.
    const double tolerance =
        4 * static_cast<double>(n) * kEpsilon * trace(dense, n) * trace(inverted, n) * std::sqrt(length);
    for (size_t i = 0; i < x.value.size(); ++i) CHECK_NEAR(back.value[i], x.value[i], tolerance);
  }
}

TEST("inverse: where a late panel fails, more jitter is added to the matrix as it was") {
  const int64_t n = 110;
  const std::vector<double> inverted = inverse(lateFailure(n, 3e-7), 1e-10, 2, Job(), kSmall);
  CHECK_NEAR(inverted[0], 1 / (1 + 1e-6), 1e-14);
  CHECK_NEAR(inverted[static_cast<size_t>(70 * n + 70)], 1 / (1 + 1e-6), 1e-14);
  CHECK_THROWS(code::numeric, inverse(lateFailure(n, 0.1), 1e-10, 2, Job(), kSmall));
  Job job;
  job.cancel();
  CHECK_THROWS(code::aborted, inverse(large(90), 0, 2, job));
}
