#include "linalg/channels.h"

#include <algorithm>
#include <numeric>

#include "linalg/blas.h"
#include "linalg/cholesky.h"
#include "linalg/gemm.h"
#include "linalg/spread.h"

namespace flrc {
namespace {

// Channels that may have gone before the large matrices are brought up to date: products of that many ranks are
// no longer bound by memory.
constexpr int64_t kPending = 256;
constexpr int64_t kTile = 512;
constexpr int64_t kBand = 128;

double squaresOf(const double* values, int64_t count) {
  return std::inner_product(values, values + count, values, 0.0);
}

// What is left of a projection while its inputs go. With B = L L^T, X = W^T L: a cost is the squared length of
// a row of X over a diagonal value of A^-1. What has gone lately is subtracted from neither yet: with R the
// Cholesky factor of (A^-1)_SS for all that has, they are A^-1 - P P^T and X - P Q, P = (A^-1)_:S R^-T and
// Q = R^-1 X_S.
class Remaining {
 public:
  Remaining(const float* w, int64_t m, int64_t n, PackedSymmetric a, const PackedSymmetric& b,
            const ChannelRankingOptions& options, const Job& job)
      : m_(m), count_(n), threads_(options.threads), job_(job) {
    inverse_ = inverse(a, options.jitter, threads_, job_);
    a = PackedSymmetric();
    ids_.resize(static_cast<size_t>(n));
    std::iota(ids_.begin(), ids_.end(), 0);
    gone_.resize(ids_.size());
    norms_.resize(ids_.size());
    diagonal_.resize(ids_.size());
    x_.resize(static_cast<size_t>(n * m));
    p_.resize(static_cast<size_t>(n * kPending));
    q_.resize(static_cast<size_t>(kPending * m));
    const std::vector<double> lower = cholesky(b, options.jitter, threads_, job_);
    bands([&](int64_t first, int64_t count) {
      std::vector<double> rows(static_cast<size_t>(count * m));
      for (int64_t j = 0; j < count; ++j) {
        for (int64_t i = 0; i < m; ++i) rows[static_cast<size_t>(j * m + i)] = w[i * n + first + j];
      }
      gemm(false, false, count, m, m, 1.0, rows.data(), m, lower.data(), m, 0.0, x_.data() + first * m, m);
    });
    measure();
  }

  // Drops so many of the cheapest. Returns tr(B W_S ((A^-1)_SS)^-1 W_S^T).
  double drop(int64_t count, std::vector<int32_t>& order) {
    if (pending_ + count > kPending) bringUpToDate();
    const std::vector<int64_t> chosen = cheapest(count);
    const double lost = subtract(chosen);
    for (int64_t j : chosen) {
      gone_[static_cast<size_t>(j)] = true;
      order.push_back(ids_[static_cast<size_t>(j)]);
    }
    pending_ += count;
    return lost;
  }

 private:
  template <typename Body>
  void bands(const Body& body) {
    forBands(count_, kBand, threads_, job_, body);
  }

  void measure() {
    bands([&](int64_t first, int64_t count) {
      for (int64_t j = first; j < first + count; ++j) {
        norms_[static_cast<size_t>(j)] = squaresOf(x_.data() + j * m_, m_);
        diagonal_[static_cast<size_t>(j)] = inverse_[static_cast<size_t>(j * count_ + j)];
      }
    });
  }

  std::vector<int64_t> cheapest(int64_t count) const {
    std::vector<std::pair<double, int64_t>> costs;
    for (size_t j = 0; j < ids_.size(); ++j) {
      if (!gone_[j]) costs.emplace_back(norms_[j] / diagonal_[j], static_cast<int64_t>(j));
    }
    std::partial_sort(costs.begin(), costs.begin() + count, costs.end());
    std::vector<int64_t> chosen;
    for (int64_t i = 0; i < count; ++i) chosen.push_back(costs[static_cast<size_t>(i)].second);
    return chosen;
  }

  double subtract(const std::vector<int64_t>& chosen) {
    const auto s = std::ssize(chosen);
    const int64_t r = pending_;
    std::vector<double> before(static_cast<size_t>(s * r)), square(static_cast<size_t>(s * s));
    double* q = q_.data() + r * m_;
    for (int64_t i = 0; i < s; ++i) {
      const int64_t j = chosen[static_cast<size_t>(i)];
      std::copy_n(p_.begin() + j * kPending, r, before.begin() + i * r);
      std::copy_n(x_.begin() + j * m_, m_, q + i * m_);
    }
    gemm(false, true, s, s, r, 1.0, before.data(), r, before.data(), r, 0.0, square.data(), s);
    PackedSymmetric middle(s);
    for (int64_t i = 0, at = 0; i < s; ++i) {
      for (int64_t j = 0; j <= i; ++j, ++at) {
        middle.values[static_cast<size_t>(at)] =
            entry(chosen[static_cast<size_t>(i)], chosen[static_cast<size_t>(j)]) -
            square[static_cast<size_t>(i * s + j)];
      }
    }
    const std::vector<double> lower = cholesky(middle, 0);
    gemm(false, false, s, m_, r, -1.0, before.data(), r, q_.data(), m_, 1.0, q, m_);
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, blasInt(s), blasInt(m_), 1.0,
                lower.data(), blasInt(s), q, blasInt(m_));
    std::vector<double> among((static_cast<size_t>((r + s) * s)));
    gemm(false, true, r + s, s, m_, 1.0, q_.data(), m_, q, m_, 0.0, among.data(), s);

    bands([&](int64_t first, int64_t count) {
      std::vector<double> p(static_cast<size_t>(count * s)), change(p.size());
      for (int64_t i = 0; i < s; ++i) {
        for (int64_t j = 0; j < count; ++j) {
          p[static_cast<size_t>(j * s + i)] = entry(chosen[static_cast<size_t>(i)], first + j);
        }
      }
      double* earlier = p_.data() + first * kPending;
      gemm(false, true, count, s, r, -1.0, earlier, kPending, before.data(), r, 1.0, p.data(), s);
      cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, blasInt(count), blasInt(s),
                  1.0, lower.data(), blasInt(s), p.data(), blasInt(s));
      // |x - p Q|^2 - |x|^2 = p (Q Q^T p^T - 2 Q x^T), where x still lacks what went earlier.
      gemm(false, true, count, s, m_, -2.0, x_.data() + first * m_, m_, q, m_, 0.0, change.data(), s);
      gemm(false, false, count, s, r, 2.0, earlier, kPending, among.data(), s, 1.0, change.data(), s);
      gemm(false, false, count, s, s, 1.0, p.data(), s, among.data() + r * s, s, 1.0, change.data(), s);
      for (int64_t j = 0; j < count; ++j) {
        const double* row = p.data() + j * s;
        const auto at = static_cast<size_t>(first + j);
        std::copy_n(row, s, earlier + j * kPending + r);
        diagonal_[at] -= squaresOf(row, s);
        norms_[at] = std::max(0.0, std::inner_product(row, row + s, change.data() + j * s, norms_[at]));
      }
    });
    return squaresOf(q, s * m_);
  }

  // Leaves out what has gone and subtracts what it changed.
  void bringUpToDate() {
    const int64_t before = count_;
    std::vector<int64_t> left;
    for (int64_t j = 0; j < before; ++j) {
      if (!gone_[static_cast<size_t>(j)]) left.push_back(j);
    }
    count_ = std::ssize(left);
    double* to = inverse_.data();
    for (int64_t i = 0; i < count_; ++i) {
      job_.check();
      const int64_t from = left[static_cast<size_t>(i)];
      ids_[static_cast<size_t>(i)] = ids_[static_cast<size_t>(from)];
      std::copy_n(p_.begin() + from * kPending, pending_, p_.begin() + i * kPending);
      std::copy_n(x_.begin() + from * m_, m_, x_.begin() + i * m_);
      for (int64_t j : left) *to++ = inverse_[static_cast<size_t>(from * before + j)];
    }
    ids_.resize(left.size());
    gone_.assign(left.size(), false);
    bands([&](int64_t first, int64_t count) {
      gemm(false, false, count, m_, pending_, -1.0, p_.data() + first * kPending, kPending, q_.data(), m_, 1.0,
           x_.data() + first * m_, m_);
    });
    forLowerTiles(
        count_, kTile, threads_, job_, [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
          gemm(false, true, rows, columns, pending_, -1.0, p_.data() + row * kPending, kPending,
               p_.data() + column * kPending, kPending, 1.0, inverse_.data() + row * count_ + column, count_);
          mirrorTile(count_, inverse_.data(), row, rows, column, columns);
        });
    pending_ = 0;
    measure();
  }

  double entry(int64_t i, int64_t j) const { return inverse_[static_cast<size_t>(i * count_ + j)]; }

  const int64_t m_;
  int64_t count_, pending_ = 0;
  const int threads_;
  const Job& job_;
  std::vector<double> inverse_;           // [count, count]
  std::vector<double> x_;                 // [count, m]
  std::vector<double> p_, q_;             // [count, kPending], [kPending, m]
  std::vector<double> norms_, diagonal_;  // up to date
  std::vector<int32_t> ids_;
  std::vector<bool> gone_;
};

int64_t packedValues(int64_t n) { return n * (n + 1) / 2; }

int64_t bandsAtOnce(int64_t count, int threads) {
  return std::min<int64_t>(threads, (count + kBand - 1) / kBand);
}

}  // namespace

int64_t droppableGroups(int64_t n, int64_t group) { return std::min(n * 3 / 4, n - 1) / group; }

ChannelRanking rankChannels(const float* w, int64_t m, int64_t n, PackedSymmetric a, const PackedSymmetric& b,
                            const ChannelRankingOptions& options, const Job& job) {
  const int64_t groups = droppableGroups(n, options.group), block = std::min(options.block, kPending);
  ChannelRanking ranking{{}, {0}};
  if (groups == 0) return ranking;
  Remaining left(w, m, n, std::move(a), b, options, job);
  double lost = 0;
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t rest = options.group; rest > 0; rest -= std::min(block, rest)) {
      lost += left.drop(std::min(block, rest), ranking.order);
    }
    ranking.costs.push_back(lost / 2 / options.tokens);
  }
  return ranking;
}

void scaleCosts(std::vector<double>& costs, const std::vector<MeasuredCost>& measured) {
  const std::vector<double> before = costs;
  const auto scaleOf = [&](const MeasuredCost& of) {
    const double cost = before[static_cast<size_t>(of.groups)];
    return cost > 0 ? of.nats / cost : 1;
  };
  size_t next = 0;
  for (size_t k = 1; k < costs.size(); ++k) {
    const auto groups = static_cast<int64_t>(k);
    while (next < measured.size() && measured[next].groups < groups) ++next;
    const MeasuredCost& above = measured[std::min(next, measured.size() - 1)];
    const MeasuredCost& below = measured[next == 0 ? 0 : next - 1];
    const double share = above.groups > below.groups ? static_cast<double>(groups - below.groups) /
                                                           static_cast<double>(above.groups - below.groups)
                                                     : 1;
    const double scale = scaleOf(below) + std::min(share, 1.0) * (scaleOf(above) - scaleOf(below));
    costs[k] = std::max(costs[k - 1], before[k] * scale);
  }
}

int64_t rankingBytes(int64_t m, int64_t n, int threads) {
  const int64_t inverting = packedValues(n) + n * n;
  const int64_t dropping = n * n + n * m + m * m + kPending * (m + n) + bandsAtOnce(n, threads) * kBand * m;
  return (packedValues(m) + std::max(inverting, dropping)) * static_cast<int64_t>(sizeof(double));
}

std::vector<float> refitToKept(const float* w, int64_t m, int64_t n, const float* packed,
                               const std::vector<int32_t>& kept, double jitter, int threads, const Job& job) {
  const auto k = std::ssize(kept);
  std::vector<int32_t> dropped;
  for (int64_t c = 0; c < n; ++c) {
    if (!std::binary_search(kept.begin(), kept.end(), c)) dropped.push_back(static_cast<int32_t>(c));
  }
  const auto d = std::ssize(dropped);
  const LowerRow own = [&](int64_t i, double* row) {
    const float* from = packed + packedValues(kept[static_cast<size_t>(i)]);
    for (int64_t j = 0; j <= i; ++j) row[j] = from[kept[static_cast<size_t>(j)]];
  };
  const std::vector<double> lower = cholesky(k, own, jitter, threads, job);
  std::vector<double> across(static_cast<size_t>(d * k));
  forBands(d, kBand, threads, job, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      const int64_t row = dropped[static_cast<size_t>(i)];
      for (int64_t j = 0; j < k; ++j) {
        const int64_t column = kept[static_cast<size_t>(j)];
        across[static_cast<size_t>(i * k + j)] =
            packed[row >= column ? packedValues(row) + column : packedValues(column) + row];
      }
    }
  });
  std::vector<float> to(static_cast<size_t>(m * k));
  forBands(m, kBand, threads, job, [&](int64_t first, int64_t count) {
    std::vector<double> lost(static_cast<size_t>(count * d)), change(static_cast<size_t>(count * k));
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; j < d; ++j) {
        lost[static_cast<size_t>(i * d + j)] = w[(first + i) * n + dropped[static_cast<size_t>(j)]];
      }
    }
    gemm(false, false, count, k, d, 1.0, lost.data(), d, across.data(), k, 0.0, change.data(), k);
    for (const CBLAS_TRANSPOSE side : {CblasTrans, CblasNoTrans}) {
      job.check();
      cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, side, CblasNonUnit, blasInt(count), blasInt(k), 1.0,
                  lower.data(), blasInt(k), change.data(), blasInt(k));
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        const double value = w[(first + i) * n + kept[static_cast<size_t>(j)]];
        to[static_cast<size_t>((first + i) * k + j)] =
            static_cast<float>(value + change[static_cast<size_t>(i * k + j)]);
      }
    }
  });
  return to;
}

int64_t refitBytes(int64_t m, int64_t n, int64_t kept, int threads) {
  // A_KK's factor and A_DK.
  const int64_t moments = kept * kept + (n - kept) * kept;
  return (m * kept + packedValues(n)) * static_cast<int64_t>(sizeof(float)) +
         (moments + bandsAtOnce(m, threads) * kBand * n) * static_cast<int64_t>(sizeof(double));
}

}  // namespace flrc
