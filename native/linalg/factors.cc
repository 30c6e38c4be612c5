#include "linalg/factors.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "linalg/blas.h"
#include "linalg/cholesky.h"
#include "linalg/gemm.h"

namespace flrc {
namespace {

// Work between two looks at the job: some 30 ms of one core.
constexpr double kFlopsPerCheck = 1e9;

// How many rows, each `flopsPerRow` of work, fit between two checks; a few at least, or BLAS runs cold.
int64_t rowsPerCheck(double flopsPerRow) {
  return std::max<int64_t>(16, static_cast<int64_t>(kFlopsPerCheck / std::max(1.0, flopsPerRow)));
}

// body(first, count) over all rows in stretches with a check before each.
template <typename Body>
void forStretches(const Job& job, int64_t rows, double flopsPerRow, Body body) {
  const int64_t most = rowsPerCheck(flopsPerRow);
  for (int64_t first = 0; first < rows; first += most) {
    job.check();
    body(first, std::min(most, rows - first));
  }
}

// C [m, n] = A [m, k] B, B [k, n].
std::vector<double> product(const Job& job, int64_t m, int64_t n, int64_t k, const double* a, const double* b) {
  std::vector<double> c(static_cast<size_t>(m * n));
  forStretches(job, m, 2.0 * static_cast<double>(n * k), [&](int64_t first, int64_t count) {
    gemm(false, false, count, n, k, 1.0, a + first * k, k, b, n, 0.0, c.data() + first * n, n);
  });
  return c;
}

// The same in f32, without a whole C in fp64 beside it.
std::vector<float> floatProduct(const Job& job, int64_t m, int64_t n, int64_t k, const double* a,
                                const double* b) {
  std::vector<float> c(static_cast<size_t>(m * n));
  std::vector<double> rows;
  forStretches(job, m, 2.0 * static_cast<double>(n * k), [&](int64_t first, int64_t count) {
    rows.resize(static_cast<size_t>(count * n));
    gemm(false, false, count, n, k, 1.0, a + first * k, k, b, n, 0.0, rows.data(), n);
    std::copy(rows.begin(), rows.end(), c.begin() + first * n);
  });
  return c;
}

// C [n, n] = A B^T for A, B [n, k] whose product is symmetric; only the lower triangle is of use.
std::vector<double> lowerProduct(const Job& job, int64_t n, int64_t k, const double* a, const double* b) {
  std::vector<double> c(static_cast<size_t>(n * n));
  constexpr int64_t kBand = 128;
  for (int64_t first = 0; first < n; first += kBand) {
    const int64_t rows = std::min(kBand, n - first), columns = first + rows;
    forStretches(job, rows, 2.0 * static_cast<double>(columns * k), [&](int64_t from, int64_t count) {
      const int64_t row = first + from;
      gemm(false, true, count, columns, k, 1.0, a + row * k, k, b, k, 0.0, c.data() + row * n, n);
    });
  }
  return c;
}

double dot(const std::vector<double>& x, const std::vector<double>& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

// W with its thin side first ([thin, wide]: W itself, or W^T when m > n), and the moment of each side.
// Transposed so, both cases of design 3 are one: only the thin side's moment is inverted.
struct ThinProblem {
  int64_t thin = 0, wide = 0;
  std::vector<double> w;
  SymmetricView thinMoment = nullptr;
  SymmetricView wideMoment = nullptr;
};

ThinProblem thinFirst(const float* w, int64_t m, int64_t n, SymmetricView a, SymmetricView b) {
  ThinProblem problem;
  if (m <= n) {
    problem = {m, n, std::vector<double>(w, w + m * n), b, a};
    return problem;
  }
  problem = {n, m, std::vector<double>(static_cast<size_t>(m * n)), a, b};
  // In squares whose rows and columns both stay in cache.
  constexpr int64_t kSide = 32;
  for (int64_t row = 0; row < m; row += kSide) {
    const int64_t rowEnd = std::min(m, row + kSide);
    for (int64_t column = 0; column < n; column += kSide) {
      const int64_t columnEnd = std::min(n, column + kSide);
      for (int64_t j = column; j < columnEnd; ++j) {
        for (int64_t i = row; i < rowEnd; ++i) problem.w[static_cast<size_t>(j * m + i)] = w[i * n + j];
      }
    }
  }
  return problem;
}

// X [thin, wide] = L^T X
void timesLowerTransposed(const Job& job, const std::vector<double>& lower, int64_t thin, int64_t wide,
                          std::vector<double>& x) {
  const double flopsPerColumn = static_cast<double>(thin) * static_cast<double>(thin);
  forStretches(job, wide, flopsPerColumn, [&](int64_t first, int64_t count) {
    cblas_dtrmm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasNonUnit, blasInt(thin), blasInt(count),
                1.0, lower.data(), blasInt(thin), x.data() + first, blasInt(wide));
  });
}

// E [rank, thin] = E L^-1
void timesLowerInverse(const Job& job, const std::vector<double>& lower, int64_t rank, int64_t thin,
                       std::vector<double>& e) {
  const double flopsPerRow = static_cast<double>(thin) * static_cast<double>(thin);
  forStretches(job, rank, flopsPerRow, [&](int64_t first, int64_t count) {
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, blasInt(count),
                blasInt(thin), 1.0, lower.data(), blasInt(thin), e.data() + first * thin, blasInt(thin));
  });
}

// Standard normal values that are the same in every version (std::normal_distribution promises nothing).
void fillGaussian(uint64_t seed, std::vector<double>& values) {
  for (size_t i = 0; i < values.size(); i += 2) {
    const double radius = std::sqrt(-2 * std::log(1 - randomUniform(seed, i)));
    const double angle = 2 * std::numbers::pi * randomUniform(seed, i + 1);
    values[i] = radius * std::cos(angle);
    if (i + 1 < values.size()) values[i + 1] = radius * std::sin(angle);
  }
}

// Rows y [k, n] times the inverse of the Cholesky factor of their products. False, with y as it was, where they
// are too close to dependent: what is left of orthogonality falls with the square of the largest over the
// smallest.
bool orthonormaliseByCholesky(const Job& job, int64_t k, int64_t n, std::vector<double>& y) {
  constexpr double kLeast = 1e-6;
  std::vector<double> lower(static_cast<size_t>(k * k));
  job.check();
  cblas_dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, blasInt(k), blasInt(n), 1.0, y.data(), blasInt(n), 0.0,
              lower.data(), blasInt(k));
  const int size = blasInt(k);
  int info = 0;
  dpotrf_("U", &size, lower.data(), &size, &info, 1);
  if (info != 0) return false;
  double least = lower[0], most = lower[0];
  for (int64_t i = 0; i < k; ++i) {
    least = std::min(least, lower[static_cast<size_t>(i * k + i)]);
    most = std::max(most, lower[static_cast<size_t>(i * k + i)]);
  }
  if (!(least > kLeast * most)) return false;
  job.check();
  cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, blasInt(k), blasInt(n), 1.0,
              lower.data(), blasInt(k), y.data(), blasInt(n));
  return true;
}

// Replaces the rows of y [k, n], k <= n, by an orthonormal basis of what they span.
void orthonormaliseRows(const Job& job, int64_t k, int64_t n, std::vector<double>& y) {
  // The second time makes up for what the first leaves (Yamamoto et al. 2015), and both take a fraction of what
  // reflections do.
  if (orthonormaliseByCholesky(job, k, n, y) && orthonormaliseByCholesky(job, k, n, y)) return;
  const int rows = blasInt(n), columns = blasInt(k), query = -1;
  std::vector<double> tau(static_cast<size_t>(k));
  double best = 0, bestQ = 0;
  int info = 0;
  dgeqrf_(&rows, &columns, y.data(), &rows, tau.data(), &best, &query, &info);
  dorgqr_(&rows, &columns, &columns, y.data(), &rows, tau.data(), &bestQ, &query, &info);
  const int workSize = blasInt(static_cast<int64_t>(std::max(best, bestQ)));
  std::vector<double> work(static_cast<size_t>(workSize));
  job.check();
  dgeqrf_(&rows, &columns, y.data(), &rows, tau.data(), work.data(), &workSize, &info);
  job.check();
  dorgqr_(&rows, &columns, &columns, y.data(), &rows, tau.data(), work.data(), &workSize, &info);
  job.check();
}

struct Eigen {
  std::vector<double> values;   // [rank], falling
  std::vector<double> vectors;  // [rank, n]
};

// The largest `rank` eigenpairs of a symmetric matrix given by its lower triangle.
Eigen largestEigen(const Job& job, int64_t n, std::vector<double> matrix, int64_t rank) {
  Eigen eigen;
  job.check();
  eigenSymmetric(n, matrix, eigen.values, eigen.vectors);
  job.check();
  eigen.values.resize(static_cast<size_t>(rank));
  eigen.vectors.resize(static_cast<size_t>(rank * n));
  return eigen;
}

// The same by a Gaussian sketch of k >= rank rows, power iterations with re-orthogonalisation, and
// Rayleigh-Ritz in the subspace found (Halko, Martinsson and Tropp 2011).
Eigen sketchedEigen(const Job& job, int64_t n, const std::vector<double>& matrix, int64_t rank, int64_t k,
                    const FactorOptions& options) {
  std::vector<double> q(static_cast<size_t>(k * n)), image(q.size());
  fillGaussian(options.seed, q);

  const double flopsPerRow = 2.0 * static_cast<double>(n) * static_cast<double>(n);
  const auto applyMatrix = [&] {
    forStretches(job, k, flopsPerRow, [&](int64_t first, int64_t count) {
      cblas_dsymm(CblasRowMajor, CblasRight, CblasLower, blasInt(count), blasInt(n), 1.0, matrix.data(),
                  blasInt(n), q.data() + first * n, blasInt(n), 0.0, image.data() + first * n, blasInt(n));
    });
  };
  for (int i = 0; i <= options.powerIterations; ++i) {
    applyMatrix();
    std::swap(q, image);
    orthonormaliseRows(job, k, n, q);
  }
  applyMatrix();
  Eigen ritz = largestEigen(job, k, lowerProduct(job, k, n, image.data(), q.data()), rank);
  return {std::move(ritz.values), product(job, rank, n, k, ritz.vectors.data(), q.data())};
}

std::vector<float> toFloat(const std::vector<double>& values) { return {values.begin(), values.end()}; }

void checkMoment(SymmetricView moment, int64_t size) {
  if (moment && moment.n != size) {
    throw Error(code::internal, "a moment matrix of size " + std::to_string(moment.n) +
                                    " does not belong to a side of length " + std::to_string(size));
  }
}

// The lower triangle of X M X^T, X [thin, wide], M the wide side's moment (null for the identity).
std::vector<double> whitenedGram(const Job& job, SymmetricView moment, int64_t thin, int64_t wide,
                                 const std::vector<double>& x) {
  if (!moment) return lowerProduct(job, thin, wide, x.data(), x.data());
  const std::vector<double> weighted = product(job, thin, wide, wide, x.data(), moment.dense().data());
  return lowerProduct(job, thin, wide, weighted.data(), x.data());
}

// L^T K L where K = W M W^T, M the wide side's moment, is given; L empty for the identity.
std::vector<double> whitenedSeen(const Job& job, SymmetricView seen, const std::vector<double>& lower) {
  std::vector<double> matrix = seen.dense();
  if (lower.empty()) return matrix;
  timesLowerTransposed(job, lower, seen.n, seen.n, matrix);
  return product(job, seen.n, seen.n, seen.n, matrix.data(), lower.data());
}

}  // namespace

NestedFactors nestedFactors(const float* w, int64_t m, int64_t n, SymmetricView a, SymmetricView b,
                            const FactorOptions& options, const Job& job, SymmetricView seen) {
  useOneBlasThread();
  checkMoment(a, n);
  checkMoment(b, m);
  checkMoment(seen, std::min(m, n));
  if (seen && (m <= n ? a : b)) {
    throw Error(code::internal, "a moment seen through W replaces that of the wide side");
  }
  ThinProblem problem = thinFirst(w, m, n, a, b);
  const int64_t thin = problem.thin, wide = problem.wide;
  const int64_t rank = options.rank > 0 ? std::min(options.rank, thin) : thin;

  // X = L^T W, and then G = X M X^T with M the wide side's moment: the eigenvectors of G are the left
  // singular vectors of the whitened matrix, and M is never factored, so that it may be singular.
  std::vector<double> lower, x = std::move(problem.w);
  if (problem.thinMoment) {
    job.check();
    lower = cholesky(problem.thinMoment, options.jitter, 1, job);
    timesLowerTransposed(job, lower, thin, wide, x);
  }
  NestedFactors factors;
  std::vector<double> gram =
      seen ? whitenedSeen(job, seen, lower) : whitenedGram(job, problem.wideMoment, thin, wide, x);
  for (int64_t i = 0; i < thin; ++i) factors.totalSquares += gram[static_cast<size_t>(i * thin + i)];
  if (!std::isfinite(factors.totalSquares)) throw Error(code::numeric, "a weight or a moment is not finite");

  const int64_t sketch = rank + std::max(0, options.oversampling);
  Eigen eigen = options.randomised && sketch < thin ? sketchedEigen(job, thin, gram, rank, sketch, options)
                                                    : largestEigen(job, thin, std::move(gram), rank);
  std::vector<float> wideFactor = floatProduct(job, rank, wide, thin, eigen.vectors.data(), x.data());
  if (problem.thinMoment) timesLowerInverse(job, lower, rank, thin, eigen.vectors);

  factors.m = m;
  factors.n = n;
  factors.rank = rank;
  (m <= n ? factors.u : factors.v) = toFloat(eigen.vectors);
  (m <= n ? factors.v : factors.u) = std::move(wideFactor);
  factors.singular = std::move(eigen.values);
  // Eigenvalues that are 0 come out a rounding error to either side.
  for (double& value : factors.singular) value = std::sqrt(std::max(value, 0.0));
  return factors;
}

std::vector<double> truncationErrors(const float* w, const NestedFactors& factors, SymmetricView a,
                                     SymmetricView b, const std::vector<int64_t>& ranks) {
  const int64_t m = factors.m, n = factors.n;
  checkMoment(a, n);
  checkMoment(b, m);
  const Job job;
  const std::vector<double> u(factors.u.begin(), factors.u.end()), v(factors.v.begin(), factors.v.end());
  const std::vector<double> inputs = a ? a.dense() : std::vector<double>();
  const std::vector<double> outputs = b ? b.dense() : std::vector<double>();

  std::vector<double> errors;
  for (const int64_t rank : ranks) {
    if (rank < 0 || rank > factors.rank) {
      throw Error(code::internal,
                  "rank " + std::to_string(rank) + " of factors with " + std::to_string(factors.rank));
    }
    std::vector<double> residual(w, w + m * n);
    gemm(true, false, m, n, rank, -1.0, u.data(), m, v.data(), n, 1.0, residual.data(), n);
    // || Lb^T R La ||^2 = sum (R A) o (B R), which needs no factor of A or B.
    const std::vector<double> right = a ? product(job, m, n, n, residual.data(), inputs.data()) : residual;
    const std::vector<double> left = b ? product(job, m, n, m, outputs.data(), residual.data()) : residual;
    errors.push_back(std::sqrt(std::max(0.0, dot(right, left))));
  }
  return errors;
}

}  // namespace flrc
