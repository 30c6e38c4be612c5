#include "quantise/block.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "linalg/gemm.h"

namespace flrc {
namespace {

using Values = std::vector<double>;

// Damping of P A P^T when C is solved for and rounded: a C that fits P's smallest directions exactly is large,
// and what rounding it costs is more than that gains. Of the order of a rounding step's square.
double damping(Dtype dtype) { return dtype == Dtype::int8 ? 1e-5 : 3e-3; }
// How often C is solved for and rounded, and P after it; more gain little.
constexpr int kRounds = 2;
// C C^T of plain factors may be singular.
constexpr double kLeastDamping = 1e-9;

double squaredDistance(const Values& a, const Values& b) {
  return std::transform_reduce(a.begin(), a.end(), b.begin(), 0.0, std::plus<>(),
                               [](double x, double y) { return (x - y) * (x - y); });
}

// X^T Y for X [k, m], Y [k, n].
Values inner(int64_t m, int64_t n, int64_t k, const Values& x, const Values& y) {
  Values c(static_cast<size_t>(m * n));
  gemm(true, false, m, n, k, 1.0, x.data(), m, y.data(), n, 0.0, c.data(), n);
  return c;
}

// X Y^T for X [m, k], Y [n, k].
Values outer(int64_t m, int64_t n, int64_t k, const Values& x, const Values& y) {
  Values c(static_cast<size_t>(m * n));
  gemm(false, true, m, n, k, 1.0, x.data(), k, y.data(), k, 0.0, c.data(), n);
  return c;
}

// X X^T for X [n, k], `diagonal` added to its diagonal.
PackedSymmetric gramOf(int64_t n, int64_t k, const Values& x, double diagonal) {
  const Values full = outer(n, n, k, x, x);
  PackedSymmetric packed(n);
  for (int64_t i = 0; i < n; ++i) {
    double* to = packed.values.data() + i * (i + 1) / 2;
    std::copy_n(full.begin() + i * n, i + 1, to);
    to[i] += diagonal;
  }
  return packed;
}

class Rounder {
 public:
  Rounder(const PivotedBlock& block, Dtype dtype, const Metric& input, Values& owed, const Job& job)
      : block_(block),
        dtype_(dtype),
        input_(input),
        owed_(owed),
        job_(job),
        s_(block.rank),
        m_(block.m),
        n_(block.n),
        rest_(block.m - static_cast<int64_t>(block.pivot.size())),
        pivoted_(!block.pivot.empty()) {
    const Values p(block.p.begin(), block.p.end()), c(block.c.begin(), block.c.end());
    others_ = inner(rest_, n_, s_, c, p);
    if (pivoted_) pivots_ = p;
    eachOutput([&](int64_t output, Values& values, int64_t at) {
      for (int64_t i = 0; i < n_; ++i) {
        values[static_cast<size_t>(at * n_ + i)] += owed_[static_cast<size_t>(output * n_ + i)];
      }
    });
    weighedOthers_ = weighed(input_, rest_, others_);
    weighedPivots_ = weighed(input_, std::ssize(block_.pivot), pivots_);
  }

  RoundedBlock run() {
    const Values p(block_.p.begin(), block_.p.end()), c(block_.c.begin(), block_.c.end());
    RoundedBlock best = {roundPlain(p, s_, n_, dtype_), roundPlain(c, s_, rest_, dtype_)};
    double least = error(weighed(input_, s_, best.p.values), best.c.values);
    const auto consider = [&](const RoundedMatrix& first, const Values& seen, const RoundedMatrix& second) {
      const double now = error(seen, second.values);
      if (!(now < least)) return;
      least = now;
      best = {first, second};
    };
    Values wanted = p;
    Metric outputs = outputMetric(c);
    RoundedMatrix mended;
    for (int round = 0;; ++round) {
      const RoundedMatrix rounded = roundAgainst(wanted, s_, n_, dtype_, &outputs, &input_, job_);
      const Values seen = weighed(input_, s_, rounded.values);
      if (round > 0) consider(rounded, seen, mended);
      if (round == kRounds) break;
      mended = bestC(seen);
      consider(rounded, seen, mended);
      outputs = outputMetric(mended.values);
      wanted = bestP(mended.values, outputs);
    }
    settle(best);
    return best;
  }

 private:
  // body(output, target values that hold its row, the row there)
  template <typename Body>
  void eachOutput(const Body& body) {
    int64_t pivot = 0;
    for (int64_t output = 0; output < m_; ++output) {
      const bool isPivot =
          pivot < std::ssize(block_.pivot) && block_.pivot[static_cast<size_t>(pivot)] == output;
      body(output, isPivot ? pivots_ : others_, isPivot ? pivot : output - pivot);
      pivot += isPivot ? 1 : 0;
    }
  }

  // How outputs see errors of P, row by row: I + C C^T, and C C^T without pivots.
  Metric outputMetric(const Values& c) const {
    return makeMetric(gramOf(s_, rest_, c, pivoted_ ? 1 : 0), kLeastDamping, 1, job_);
  }

  // For P as the input sees it.
  RoundedMatrix bestC(const Values& seen) const {
    const Metric metric = makeMetric(gramOf(s_, n_, seen, 0), damping(dtype_), 1, job_);
    Values c = outer(s_, rest_, n_, seen, weighedOthers_);
    solve(metric, rest_, c);
    return roundAgainst(c, s_, rest_, dtype_, &metric, nullptr, job_);
  }

  // The P that is best for C, whatever the input's metric: (I + C C^T)^-1 (pivots + C rest).
  Values bestP(const Values& c, const Metric& seen) const {
    Values p = pivoted_ ? pivots_ : Values(static_cast<size_t>(s_ * n_));
    gemm(false, false, s_, n_, rest_, 1.0, c.data(), rest_, others_.data(), n_, 1.0, p.data(), n_);
    solve(seen, n_, p);
    return p;
  }

  double error(const Values& seen, const Values& c) const {
    const double others = squaredDistance(inner(rest_, n_, s_, c, seen), weighedOthers_);
    return pivoted_ ? others + squaredDistance(seen, weighedPivots_) : others;
  }

  void settle(const RoundedBlock& block) {
    const Values product = inner(rest_, n_, s_, block.c.values, block.p.values);
    eachOutput([&](int64_t output, const Values& values, int64_t at) {
      const Values& made = &values == &others_ ? product : block.p.values;
      for (int64_t i = 0; i < n_; ++i) {
        const auto from = static_cast<size_t>(at * n_ + i);
        owed_[static_cast<size_t>(output * n_ + i)] = values[from] - made[from];
      }
    });
  }

  const PivotedBlock& block_;
  const Dtype dtype_;
  const Metric& input_;
  Values& owed_;
  const Job& job_;
  const int64_t s_, m_, n_, rest_;
  const bool pivoted_;
  Values pivots_, others_;  // what the outputs should be: [s, n] and [rest, n]
  Values weighedPivots_, weighedOthers_;
};

}  // namespace

RoundedBlock roundFactors(const PivotedBlock& block, Dtype dtype, const Metric& input,
                          std::vector<double>& owed, const Job& job) {
  return Rounder(block, dtype, input, owed, job).run();
}

int64_t roundBytes(int64_t m, int64_t n, int64_t rank) {
  // The metric, as it is made; owed, targets, and products of both; P and C with their rounded values and
  // errors.
  const int64_t metric = n * n + n * (n + 1) / 2;
  return static_cast<int64_t>(sizeof(double)) * (metric + 5 * m * n + 6 * rank * (m + n) + 4 * rank * rank);
}

}  // namespace flrc
