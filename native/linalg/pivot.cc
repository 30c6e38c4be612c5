#include "linalg/pivot.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "core/error.h"
#include "linalg/blas.h"
#include "linalg/gemm.h"

namespace flrc {
namespace {

// The block's U^T reduced to k = its numerical rank rows, column-major [k, m]; any k independent columns of
// it are pivots, and the coefficients of the other columns in them are those of U's rows.
struct Reduced {
  int64_t k = 0, m = 0;
  std::vector<double> r;        // column-major, leading dimension k
  std::vector<int32_t> column;  // which output each column is; the first k are the pivots
};

// u [s, m] as doubles, column-major [s, m], each rank at unit length.
std::vector<double> unitRanks(const float* u, int64_t s, int64_t m) {
  std::vector<double> columns(static_cast<size_t>(s * m));
  for (int64_t i = 0; i < s; ++i) {
    const float* row = u + i * m;
    double squares = 0;
    for (int64_t j = 0; j < m; ++j) squares += static_cast<double>(row[j]) * static_cast<double>(row[j]);
    if (!std::isfinite(squares)) throw Error(code::numeric, "a factor to pivot is not finite");
    const double inverse = squares > 0 ? 1 / std::sqrt(squares) : 0;
    for (int64_t j = 0; j < m; ++j)
      columns[static_cast<size_t>(j * s + i)] = static_cast<double>(row[j]) * inverse;
  }
  return columns;
}

// Z, column-major [k, m - k], with R[:, rest] = R[:, pivots] Z.
std::vector<double> coefficients(const Reduced& reduced) {
  const int64_t k = reduced.k;
  std::vector<double> pivots(reduced.r.begin(), reduced.r.begin() + k * k);
  std::vector<double> z(reduced.r.begin() + k * k, reduced.r.end());
  if (z.empty()) return z;
  const int size = blasInt(k), width = blasInt(reduced.m - k);
  std::vector<int> exchanges(static_cast<size_t>(k));
  int info = 0;
  dgesv_(&size, &width, pivots.data(), &size, exchanges.data(), z.data(), &size, &info);
  if (info != 0) throw Error(code::internal, "the pivots of a block turned out dependent");
  return z;
}

// Makes rest column j a pivot in place of pivot i and updates Z to match: with f = (Z[:, j] - e_i) / Z[i, j],
// Z becomes Z - f Z[i, :], and column j, now the old pivot's, becomes e_i - f.
void exchange(Reduced& reduced, std::vector<double>& z, int64_t i, int64_t j) {
  const int64_t k = reduced.k, rest = reduced.m - k;
  const double pivot = z[static_cast<size_t>(j * k + i)];
  std::vector<double> f(z.begin() + j * k, z.begin() + (j + 1) * k);
  f[static_cast<size_t>(i)] -= 1;
  for (double& value : f) value /= pivot;
  std::vector<double> row(static_cast<size_t>(rest));
  cblas_dcopy(blasInt(rest), z.data() + i, blasInt(k), row.data(), 1);
  cblas_dger(CblasColMajor, blasInt(k), blasInt(rest), -1.0, f.data(), 1, row.data(), 1, z.data(), blasInt(k));
  for (int64_t l = 0; l < k; ++l) z[static_cast<size_t>(j * k + l)] = -f[static_cast<size_t>(l)];
  z[static_cast<size_t>(j * k + i)] += 1;

  std::swap(reduced.column[static_cast<size_t>(i)], reduced.column[static_cast<size_t>(k + j)]);
  std::swap_ranges(reduced.r.begin() + i * k, reduced.r.begin() + (i + 1) * k, reduced.r.begin() + (k + j) * k);
}

// Exchanges pivots while one multiplies the volume of the pivot rows by more than `bound`.
std::vector<double> boundCoefficients(Reduced& reduced, double bound, const Job& job) {
  std::vector<double> z = coefficients(reduced);
  if (z.empty()) return z;
  // Each exchange grows the volume by `bound` at least and QR starts within a factor of the largest that is
  // exponential in k, so far fewer than this happen; the limit is for a bound too close to 1.
  const int64_t most = 16 * reduced.k + 64;
  int64_t done = 0;
  for (; done < most; ++done) {
    job.check();
    const auto at = static_cast<int64_t>(cblas_idamax(blasInt(static_cast<int64_t>(z.size())), z.data(), 1));
    if (!(std::abs(z[static_cast<size_t>(at)]) > bound)) break;
    exchange(reduced, z, at % reduced.k, at / reduced.k);
  }
  // Updates add up rounding errors: the final coefficients are solved for afresh.
  return done > 0 ? coefficients(reduced) : z;
}

}  // namespace

int64_t pivotedQr(const float* u, int64_t s, int64_t m, double* r, int32_t* column, const Job& job) {
  useOneBlasThread();
  std::vector<double> columns = unitRanks(u, s, m);
  const int rows = blasInt(s), width = blasInt(m), query = -1;
  std::vector<int> order(static_cast<size_t>(m));
  std::vector<double> tau(static_cast<size_t>(s));
  double best = 0;
  int info = 0;
  dgeqp3_(&rows, &width, columns.data(), &rows, order.data(), tau.data(), &best, &query, &info);
  const int workSize = blasInt(static_cast<int64_t>(best));
  std::vector<double> work(static_cast<size_t>(workSize));
  job.check();
  dgeqp3_(&rows, &width, columns.data(), &rows, order.data(), tau.data(), work.data(), &workSize, &info);
  job.check();

  const double negligible =
      std::abs(columns[0]) * static_cast<double>(m) * std::numeric_limits<double>::epsilon();
  int64_t k = 0;
  while (k < s && std::abs(columns[static_cast<size_t>(k * (s + 1))]) > negligible) ++k;
  std::fill(r, r + k * m, 0.0);
  for (int64_t j = 0; j < m; ++j) {
    const int64_t upper = std::min(k, j + 1);
    std::copy_n(columns.begin() + j * s, upper, r + j * k);
    column[j] = order[static_cast<size_t>(j)] - 1;
  }
  return k;
}

PivotedBlock pivotBlock(const float* u, const float* v, int64_t s, int64_t m, int64_t n, double bound,
                        const Job& job, const PivotedQr& qr) {
  if (s < 0 || s > m) {
    throw Error(code::internal, "a block of " + std::to_string(s) + " ranks cannot have as many pivots among " +
                                    std::to_string(m) + " outputs");
  }
  useOneBlasThread();
  PivotedBlock block;
  block.m = m;
  block.n = n;
  block.rank = s;
  block.p.assign(static_cast<size_t>(s * n), 0.0f);
  block.c.assign(static_cast<size_t>(s * (m - s)), 0.0f);
  if (s == 0) return block;

  Reduced reduced;
  reduced.m = m;
  reduced.column.resize(static_cast<size_t>(m));
  reduced.r.resize(static_cast<size_t>(s * m));
  reduced.k = qr ? qr(u, s, m, reduced.r.data(), reduced.column.data())
                 : pivotedQr(u, s, m, reduced.r.data(), reduced.column.data(), job);
  reduced.r.resize(static_cast<size_t>(reduced.k * m));
  const std::vector<double> z = boundCoefficients(reduced, bound, job);

  // A block of lower rank k has s - k pivots to spare: outputs that are computed by P although no other
  // output needs them.
  block.pivot.assign(reduced.column.begin(), reduced.column.begin() + s);
  std::sort(block.pivot.begin(), block.pivot.end());
  std::vector<int32_t> placeInRest(static_cast<size_t>(m), -1), placeInPivot(static_cast<size_t>(m), -1);
  for (int64_t i = 0; i < s; ++i)
    placeInPivot[static_cast<size_t>(block.pivot[static_cast<size_t>(i)])] = static_cast<int32_t>(i);
  for (int32_t output = 0, place = 0; output < m; ++output) {
    if (placeInPivot[static_cast<size_t>(output)] < 0) placeInRest[static_cast<size_t>(output)] = place++;
  }
  for (int64_t j = s; j < m; ++j) {
    const int64_t o = placeInRest[static_cast<size_t>(reduced.column[static_cast<size_t>(j)])];
    for (int64_t i = 0; i < reduced.k; ++i) {
      const int64_t rank = placeInPivot[static_cast<size_t>(reduced.column[static_cast<size_t>(i)])];
      block.c[static_cast<size_t>(rank * (m - s) + o)] =
          static_cast<float>(z[static_cast<size_t>((j - reduced.k) * reduced.k + i)]);
    }
  }

  // P [s, n] = U[I] V, a stretch of its rows at a time.
  const std::vector<double> wideV(v, v + s * n);
  const int64_t stretch =
      std::max<int64_t>(16, static_cast<int64_t>(5e8 / static_cast<double>(std::max<int64_t>(1, s * n))));
  std::vector<double> rows, product;
  for (int64_t first = 0; first < s; first += stretch) {
    job.check();
    const int64_t count = std::min(stretch, s - first);
    rows.assign(static_cast<size_t>(count * s), 0.0);
    product.assign(static_cast<size_t>(count * n), 0.0);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; j < s; ++j) {
        rows[static_cast<size_t>(i * s + j)] =
            static_cast<double>(u[j * m + block.pivot[static_cast<size_t>(first + i)]]);
      }
    }
    gemm(false, false, count, n, s, 1.0, rows.data(), s, wideV.data(), n, 0.0, product.data(), n);
    std::copy(product.begin(), product.end(), block.p.begin() + first * n);
  }
  return block;
}

}  // namespace flrc
