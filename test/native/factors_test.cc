#include "linalg/factors.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "check.h"
#include "whitened.h"

using namespace flrc;
using reference::Matrix;
using whitened::optimalErrors;
using whitened::Problem;

namespace {

// The contract of the all-rank route: |e_r - e_r*| <= 1e-4 e_r* + 1e-6 || Lb^T W La || at every rank.
void checkAllRanks(const Problem& problem) {
  const Job job;
  const NestedFactors factors =
      nestedFactors(problem.w.data(), problem.m, problem.n, problem.momentA(), problem.momentB(), {}, job);
  const int64_t thin = std::min(problem.m, problem.n);
  CHECK_EQUAL(factors.rank, thin);
  const std::vector<double> singular = problem.singular();
  const std::vector<double> best = optimalErrors(singular, thin);
  for (int64_t r = 0; r <= thin; ++r) {
    const double optimum = best[static_cast<size_t>(r)];
    CHECK_NEAR(problem.error(factors, r), optimum, 1e-4 * optimum + 1e-6 * best[0]);
  }
  // Squares are found to a few n eps of the largest, and up to the jitter.
  CHECK_NEAR(std::sqrt(factors.totalSquares), best[0], 1e-6 * best[0]);
  for (size_t i = 0; i < singular.size() && i < factors.singular.size(); ++i) {
    CHECK_NEAR(factors.singular[i], singular[i], 1e-5 * singular[0]);
  }
}

}  // namespace

TEST("factors: every rank is optimal, for all whitenings and shapes") {
  const int64_t shapes[][2] = {{1, 1}, {1, 9}, {9, 1}, {24, 40}, {40, 24}, {32, 32}, {70, 50}};
  for (const auto& [m, n] : shapes) {
    for (int whitening = 0; whitening < 4; ++whitening) {
      checkAllRanks(Problem(7, m, n, 2 * n + 2, 2 * m + 2, 0, whitening));
    }
  }
}

TEST("factors: ill-conditioned moments (eight powers of ten between eigenvalues)") {
  for (int whitening = 0; whitening < 4; ++whitening) {
    checkAllRanks(Problem(8, 30, 50, 120, 120, 4, whitening));
    checkAllRanks(Problem(9, 50, 30, 120, 120, 4, whitening));
  }
}

TEST("factors: the moment of the wide side may be singular") {
  for (int whitening = 1; whitening < 4; ++whitening) {
    checkAllRanks(Problem(10, 20, 48, 11, 50, 0, whitening));
    checkAllRanks(Problem(11, 48, 20, 50, 11, 0, whitening));
  }
}

TEST("factors: the moment of the thin side may be singular too, within the jitter") {
  const Problem problem(12, 20, 48, 100, 8, 0, 3);
  const NestedFactors factors = nestedFactors(problem.w.data(), 20, 48, &problem.a, &problem.b, {}, Job());
  const std::vector<double> best = optimalErrors(problem.singular(), 20);
  for (int64_t r = 0; r <= 20; ++r) {
    // The jitter of 1e-8 adds that much of the mean diagonal to every squared error.
    CHECK_NEAR(problem.error(factors, r), best[static_cast<size_t>(r)],
               1e-4 * best[static_cast<size_t>(r)] + 1e-4 * best[0]);
  }
}

TEST("factors: a weight of low rank, and of zeros") {
  for (int whitening = 0; whitening < 4; ++whitening) {
    Problem problem(13, 26, 37, 80, 60, 0, whitening);
    check::Random random(14);
    const Matrix left = reference::fromFloats(random.floats(26 * 5).data(), 26, 5);
    const Matrix right = reference::fromFloats(random.floats(5 * 37).data(), 5, 37);
    const Matrix low = reference::product(left, right);
    problem.w.assign(low.values.begin(), low.values.end());
    checkAllRanks(problem);
    problem.w.assign(problem.w.size(), 0.0f);
    checkAllRanks(problem);
  }
}

TEST("factors: fewer ranks are a prefix of all of them") {
  const Problem problem(15, 24, 31, 70, 70, 1, 3);
  FactorOptions options;
  const NestedFactors all = nestedFactors(problem.w.data(), 24, 31, &problem.a, &problem.b, options, Job());
  options.rank = 7;
  const NestedFactors some = nestedFactors(problem.w.data(), 24, 31, &problem.a, &problem.b, options, Job());
  CHECK_EQUAL(some.rank, 7);
  CHECK_EQUAL(some.u.size(), 7u * 24u);
  CHECK_EQUAL(some.v.size(), 7u * 31u);
  const std::vector<double> best = optimalErrors(problem.singular(), 24);
  for (int64_t r = 0; r <= 7; ++r)
    CHECK_NEAR(problem.error(some, r), best[static_cast<size_t>(r)], 1e-4 * best[0]);
  CHECK_EQUAL(some.totalSquares, all.totalSquares);
}

TEST("factors: channels that a diagonal moment gives no weight divide nothing by zero") {
  for (const auto& [m, n] : {std::pair<int64_t, int64_t>{20, 31}, {31, 20}}) {
    const Problem problem(21, m, n, 10, 10, 0, 0);
    PackedSymmetric a(n);
    for (int64_t i = 0; i < n; ++i) {
      a.values[static_cast<size_t>(i * (i + 1) / 2 + i)] = i % 3 == 0 ? 0 : 0.1 * static_cast<double>(i);
    }
    const NestedFactors factors = nestedFactors(problem.w.data(), m, n, &a, nullptr, {}, Job());
    for (float value : factors.u) CHECK(std::isfinite(value));
    for (float value : factors.v) CHECK(std::isfinite(value));
    // All ranks give W back where it has weight.
    double error = 0;
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        if (c % 3 == 0) continue;
        double left = problem.w[static_cast<size_t>(r * n + c)];
        for (int64_t j = 0; j < factors.rank; ++j) {
          left -= static_cast<double>(factors.u[static_cast<size_t>(j * m + r)]) *
                  factors.v[static_cast<size_t>(j * n + c)];
        }
        error = std::max(error, std::fabs(left));
      }
    }
    CHECK_AT_MOST(error, 1e-3);
  }
}

TEST("factors: the wide side's moment may be given as W sees it") {
  const int64_t shapes[][2] = {{41, 23}, {23, 41}};
  for (const auto& [m, n] : shapes) {
    const Problem problem(19, m, n, 60, 90, 1, 3);
    const bool tall = m > n;
    const int64_t thin = std::min(m, n), wide = std::max(m, n);
    const auto w = [&, columns = n](int64_t i, int64_t j) {  // [wide, thin]
      return static_cast<double>(problem.w[static_cast<size_t>(tall ? i * columns + j : j * columns + i)]);
    };
    // W^T B W or W A W^T in fp64.
    const std::vector<double> moment = (tall ? problem.b : problem.a).dense();
    PackedSymmetric seen(thin);
    for (int64_t i = 0; i < thin; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        double sum = 0;
        for (int64_t r = 0; r < wide; ++r) {
          for (int64_t c = 0; c < wide; ++c)
            sum += w(r, i) * moment[static_cast<size_t>(r * wide + c)] * w(c, j);
        }
        seen.values[static_cast<size_t>(i * (i + 1) / 2 + j)] = sum;
      }
    }
    for (bool withThin : {false, true}) {
      const PackedSymmetric* a = tall && !withThin ? nullptr : &problem.a;
      const PackedSymmetric* b = !tall && !withThin ? nullptr : &problem.b;
      const NestedFactors whole = nestedFactors(problem.w.data(), m, n, a, b, {}, Job());
      const NestedFactors through =
          nestedFactors(problem.w.data(), m, n, tall ? a : nullptr, tall ? nullptr : b, {}, Job(), &seen);
      CHECK_NEAR(through.totalSquares, whole.totalSquares, 1e-9 * whole.totalSquares);
      for (size_t i = 0; i < whole.singular.size(); ++i) {
        CHECK_NEAR(through.singular[i], whole.singular[i], 1e-7 * whole.singular[0]);
      }
      for (int64_t r = 0; withThin && r <= thin; ++r) {
        CHECK_NEAR(problem.error(through, r), problem.error(whole, r), 1e-6 * problem.error(whole, 0));
      }
    }
    // Both the wide side's moment and what W sees of it.
    CHECK_THROWS("E_INTERNAL", nestedFactors(problem.w.data(), m, n, tall ? nullptr : &problem.a,
                                             tall ? &problem.b : nullptr, {}, Job(), &seen));
  }
}

TEST("factors: the randomised route stays within 1.01 of the optimum at every rank") {
  const int64_t shapes[][2] = {{110, 150}, {150, 110}};
  for (const auto& [m, n] : shapes) {
    for (const double decay : {0.0, 0.5, 2.0, 4.0}) {
      const Problem problem(17, m, n, 200, 200, decay, 3);
      FactorOptions options;
      options.rank = 27;
      options.randomised = true;
      options.seed = 5;
      const NestedFactors factors =
          nestedFactors(problem.w.data(), m, n, &problem.a, &problem.b, options, Job());
      CHECK_EQUAL(factors.rank, 27);
      const std::vector<double> best = optimalErrors(problem.singular(), 27);
      for (int64_t r = 0; r <= 27; ++r) {
        CHECK_AT_MOST(problem.error(factors, r), 1.01 * best[static_cast<size_t>(r)] + 1e-6 * best[0]);
      }
      const NestedFactors again = nestedFactors(problem.w.data(), m, n, &problem.a, &problem.b, options, Job());
      CHECK(again.u == factors.u && again.v == factors.v);
    }
  }
}

TEST("factors: truncation errors are those of the definition") {
  for (int whitening = 0; whitening < 4; ++whitening) {
    const Problem problem(18, 21, 17, 12, 50, 1, whitening);
    const NestedFactors factors =
        nestedFactors(problem.w.data(), 21, 17, problem.momentA(), problem.momentB(), {}, Job());
    const std::vector<int64_t> ranks = {17, 0, 3, 9};
    const std::vector<double> errors =
        truncationErrors(problem.w.data(), factors, problem.momentA(), problem.momentB(), ranks);
    const double whole = problem.error(factors, 0);
    for (size_t i = 0; i < ranks.size(); ++i)
      CHECK_NEAR(errors[i], problem.error(factors, ranks[i]), 1e-7 * whole);
    CHECK_THROWS(code::internal, truncationErrors(problem.w.data(), factors, nullptr, nullptr, {18}));
  }
}

TEST("factors: a cancelled job, a wrong moment and a broken weight are refused") {
  Problem problem(19, 20, 30, 80, 80, 0, 3);
  Job cancelled;
  cancelled.cancel();
  for (const bool randomised : {false, true}) {
    FactorOptions options;
    options.rank = 3;
    options.oversampling = 4;
    options.randomised = randomised;
    CHECK_THROWS(code::aborted,
                 nestedFactors(problem.w.data(), 20, 30, &problem.a, &problem.b, options, cancelled));
  }
  CHECK_THROWS(code::internal, nestedFactors(problem.w.data(), 20, 30, &problem.b, &problem.a, {}, Job()));
  problem.w[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS(code::numeric, nestedFactors(problem.w.data(), 20, 30, &problem.a, &problem.b, {}, Job()));
}
