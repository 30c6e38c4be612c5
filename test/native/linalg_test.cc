#include <cmath>
#include <limits>

#include "check.h"
#include "linalg/gemm.h"
#include "linalg/symmetric.h"
#include "reference.h"

using namespace flrc;
using reference::Matrix;

namespace {

Matrix randomMatrix(check::Random& random, int64_t rows, int64_t cols) {
  Matrix a(rows, cols);
  for (double& value : a.values) value = random.normal();
  return a;
}

template <typename Real>
void checkGemm(double epsilon) {
  check::Random random(1);
  const int64_t shapes[][3] = {{1, 1, 1}, {3, 5, 7}, {17, 9, 33}, {40, 64, 12}};
  for (const auto& [m, n, k] : shapes) {
    for (int transposes = 0; transposes < 4; ++transposes) {
      const bool transA = (transposes & 1) != 0, transB = (transposes & 2) != 0;
      const Matrix a = randomMatrix(random, m, k), b = randomMatrix(random, k, n),
                   c = randomMatrix(random, m, n);
      const Matrix storedA = transA ? reference::transpose(a) : a,
                   storedB = transB ? reference::transpose(b) : b;
      const std::vector<Real> realA(storedA.values.begin(), storedA.values.end());
      const std::vector<Real> realB(storedB.values.begin(), storedB.values.end());
      std::vector<Real> realC(c.values.begin(), c.values.end());
      gemm(transA, transB, m, n, k, Real(2), realA.data(), storedA.cols, realB.data(), storedB.cols, Real(0.5),
           realC.data(), n);
      const Matrix ab = reference::product(a, b);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          // Inputs and each of k + 2 roundings, over the sum of absolute terms.
          double terms = std::abs(c.at(i, j)) / 2;
          for (int64_t l = 0; l < k; ++l) terms += 2 * std::abs(a.at(i, l) * b.at(l, j));
          CHECK_NEAR(realC[static_cast<size_t>(i * n + j)], 2 * ab.at(i, j) + 0.5 * c.at(i, j),
                     static_cast<double>(k + 4) * epsilon * terms);
        }
      }
    }
  }
}

}  // namespace

TEST("gemm: all transposes in fp32 and fp64, with alpha and beta") {
  checkGemm<float>(0x1p-24);
  checkGemm<double>(0x1p-53);
}

TEST("gram: the lower triangle of A^T A, and nothing above it") {
  constexpr int64_t kN = 37, kK = 23, kLd = 41;
  check::Random random(3);
  std::vector<float> a(kK * kLd), c(kN * kLd, -7.0f);
  for (float& value : a) value = static_cast<float>(random.normal());
  gram(kN, kK, a.data(), kLd, c.data(), kLd);
  for (int64_t i = 0; i < kN; ++i) {
    for (int64_t j = 0; j < kN; ++j) {
      double sum = 0, magnitude = 0;
      for (int64_t t = 0; t < kK; ++t) {
        const double term = static_cast<double>(a[t * kLd + i]) * a[t * kLd + j];
        sum += term;
        magnitude += std::abs(term);
      }
      // Rounding of a sum of kK products is at most kK eps times the sum of their sizes.
      CHECK_NEAR(c[i * kLd + j], j <= i ? sum : -7.0, j <= i ? kK * 6e-8 * magnitude : 0.0);
    }
  }
}

TEST("gemm: a dimension beyond int is refused") {
  float one = 1;
  const int64_t beyond = int64_t{1} << 31;
  CHECK_THROWS(code::internal, gemm(false, false, 1, 1, beyond, 1.0f, &one, beyond, &one, 1, 0.0f, &one, 1));
}

TEST("packed symmetric: dense form and mean diagonal") {
  for (const int64_t n : {0, 1, 5, 64, 130}) {
    PackedSymmetric packed(n);
    for (size_t i = 0; i < packed.values.size(); ++i) packed.values[i] = static_cast<double>(i);
    const std::vector<double> dense = packed.dense();
    double diagonal = 0;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const int64_t low = std::max(i, j), high = std::min(i, j);
        CHECK_EQUAL(dense[static_cast<size_t>(i * n + j)], static_cast<double>(low * (low + 1) / 2 + high));
      }
      diagonal += dense[static_cast<size_t>(i * n + i)];
    }
    if (n > 0) CHECK_NEAR(packed.meanDiagonal(), diagonal / static_cast<double>(n), 1e-9 * diagonal);
  }
}

TEST("eigen: orthonormal rows in falling order that give the matrix back; only the lower triangle is read") {
  check::Random random(4);
  for (const int64_t n : {1, 2, 30, 75}) {
    Matrix a(n, n);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j <= i; ++j) a.at(i, j) = a.at(j, i) = random.normal();
    }
    std::vector<double> matrix = a.values, values, vectors;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i + 1; j < n; ++j) matrix[static_cast<size_t>(i * n + j)] = 1e30;
    }
    eigenSymmetric(n, matrix, values, vectors);
    for (int64_t i = 1; i < n; ++i) CHECK(values[static_cast<size_t>(i)] <= values[static_cast<size_t>(i - 1)]);
    Matrix e(n, n), scaled(n, n), identity(n, n);
    e.values = vectors;
    for (int64_t i = 0; i < n; ++i) {
      identity.at(i, i) = 1;
      for (int64_t j = 0; j < n; ++j) scaled.at(i, j) = values[static_cast<size_t>(i)] * e.at(i, j);
    }
    const Matrix transposed = reference::transpose(e);
    // Backward error of a symmetric eigensolver: a small multiple of n eps, in norm.
    const double small = 10 * static_cast<double>(n) * 0x1p-52;
    CHECK_AT_MOST(reference::norm(reference::difference(reference::product(e, transposed), identity)), small);
    CHECK_AT_MOST(reference::norm(reference::difference(reference::product(transposed, scaled), a)),
                  small * reference::norm(a));
  }
}
