// Which channels of an MLP to drop, and what the others become, against plain least squares.
#include "linalg/channels.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "check.h"
#include "reference.h"

using flrc::ChannelRanking;
using flrc::ChannelRankingOptions;
using flrc::Job;
using flrc::PackedSymmetric;
using reference::Matrix;

namespace {

struct Problem {
  int64_t m, n;
  std::vector<float> w;
  Matrix x, g;

  Problem(uint64_t seed, int64_t rows, int64_t cols, int64_t tokens)
      : m(rows), n(cols), x(tokens, cols), g(tokens, rows) {
    check::Random random(seed);
    w = random.floats(m * n);
    // A few directions that many channels share, so that the others can make up for what goes.
    const int64_t shared = std::max<int64_t>(2, n / 4);
    Matrix latent(tokens, shared), mix(shared, n);
    for (double& value : latent.values) value = random.normal();
    for (double& value : mix.values) value = random.normal();
    x = reference::product(latent, mix);
    for (double& value : x.values) value += random.normal();
    for (double& value : g.values) value = random.normal();
  }

  PackedSymmetric a() const { return reference::moment(x); }
  PackedSymmetric b() const { return reference::moment(g); }
  double tokens() const { return static_cast<double>(x.rows); }

  ChannelRanking rank(int64_t group, int64_t block, int threads = 2) const {
    const ChannelRankingOptions options{group, block, tokens(), 0, threads};
    return flrc::rankChannels(w.data(), m, n, a(), b(), options, Job());
  }

  std::vector<int32_t> without(const std::vector<int32_t>& order, int64_t count) const {
    std::vector<int32_t> kept;
    for (int32_t c = 0; c < n; ++c) {
      if (std::find(order.begin(), order.begin() + count, c) == order.begin() + count) kept.push_back(c);
    }
    return kept;
  }

  // The sum of squares of (g . D x) over all pairs of a g and an x, over 2 T: tr(B D A D^T) / (2 T).
  double cost(const Matrix& changed, const std::vector<int32_t>& kept) const {
    Matrix change = reference::fromFloats(w.data(), m, n);
    for (double& value : change.values) value = -value;
    for (int64_t i = 0; i < m; ++i) {
      for (size_t j = 0; j < kept.size(); ++j) change.at(i, kept[j]) += changed.at(i, static_cast<int64_t>(j));
    }
    const double size =
        reference::norm(reference::product(reference::product(g, change), reference::transpose(x)));
    return size * size / 2 / tokens();
  }

  // Least squares by normal equations and Gaussian elimination.
  Matrix refitted(const std::vector<int32_t>& kept) const {
    const auto k = static_cast<int64_t>(kept.size());
    Matrix some(x.rows, k);
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t j = 0; j < k; ++j) some.at(t, j) = x.at(t, kept[static_cast<size_t>(j)]);
    }
    const Matrix across = reference::transpose(some);
    Matrix left = reference::product(across, some);
    Matrix right = reference::product(
        across, reference::product(x, reference::transpose(reference::fromFloats(w.data(), m, n))));
    for (int64_t c = 0; c < k; ++c) {
      for (int64_t r = c + 1; r < k; ++r) {
        const double factor = left.at(r, c) / left.at(c, c);
        for (int64_t j = c; j < k; ++j) left.at(r, j) -= factor * left.at(c, j);
        for (int64_t j = 0; j < m; ++j) right.at(r, j) -= factor * right.at(c, j);
      }
    }
    for (int64_t r = k - 1; r >= 0; --r) {
      for (int64_t j = 0; j < m; ++j) {
        for (int64_t c = r + 1; c < k; ++c) right.at(r, j) -= left.at(r, c) * right.at(c, j);
        right.at(r, j) /= left.at(r, r);
      }
    }
    return reference::transpose(right);
  }

  double bestCost(const std::vector<int32_t>& kept) const { return cost(refitted(kept), kept); }

  Matrix refit(const std::vector<int32_t>& kept, int threads = 2) const {
    const PackedSymmetric moment = a();
    const std::vector<float> packed(moment.values.begin(), moment.values.end());
    const std::vector<float> to = flrc::refitToKept(w.data(), m, n, packed.data(), kept, 0, threads, Job());
    return reference::fromFloats(to.data(), m, static_cast<int64_t>(kept.size()));
  }
};

// By Gauss and Jordan.
Matrix inverted(const PackedSymmetric& packed) {
  const int64_t n = packed.n;
  Matrix from(n, n), to(n, n);
  from.values = packed.dense();
  for (int64_t i = 0; i < n; ++i) to.at(i, i) = 1;
  for (int64_t c = 0; c < n; ++c) {
    const double pivot = from.at(c, c);
    for (Matrix* of : {&from, &to}) {
      for (int64_t j = 0; j < n; ++j) of->at(c, j) /= pivot;
    }
    for (int64_t r = 0; r < n; ++r) {
      const double factor = from.at(r, c);
      if (r == c || factor == 0) continue;
      for (int64_t j = 0; j < n; ++j) {
        from.at(r, j) -= factor * from.at(c, j);
        to.at(r, j) -= factor * to.at(c, j);
      }
    }
  }
  return to;
}

// W and A^-1 as a whole brought up to date for one channel after another, costs looked at after each block.
std::vector<int32_t> plainOrder(const Problem& problem, int64_t group, int64_t block) {
  const int64_t n = problem.n, m = problem.m;
  Matrix w = reference::fromFloats(problem.w.data(), m, n), inverse = inverted(problem.a());
  Matrix b(m, m);
  b.values = problem.b().dense();
  std::vector<int32_t> order;
  std::vector<bool> gone(static_cast<size_t>(n));
  const int64_t all = n * 3 / 4 / group * group;
  while (std::ssize(order) < all) {
    const Matrix bw = reference::product(b, w);
    std::vector<std::pair<double, int32_t>> costs;
    for (int32_t c = 0; c < n; ++c) {
      double size = 0;
      for (int64_t i = 0; i < m; ++i) size += w.at(i, c) * bw.at(i, c);
      if (!gone[static_cast<size_t>(c)]) costs.emplace_back(size / inverse.at(c, c), c);
    }
    std::sort(costs.begin(), costs.end());
    const int64_t left = group - std::ssize(order) % group;
    for (int64_t k = 0; k < std::min(block, left); ++k) {
      const int32_t c = costs[static_cast<size_t>(k)].second;
      order.push_back(c);
      gone[static_cast<size_t>(c)] = true;
      std::vector<double> row(inverse.values.begin() + c * n, inverse.values.begin() + (c + 1) * n);
      const double pivot = row[static_cast<size_t>(c)];
      for (Matrix* of : {&w, &inverse}) {
        for (int64_t i = 0; i < of->rows; ++i) {
          const double factor = of->at(i, c) / pivot;
          for (int64_t j = 0; j < n; ++j) of->at(i, j) -= factor * row[static_cast<size_t>(j)];
        }
      }
    }
  }
  return order;
}

}  // namespace

TEST("channels: at least a quarter of them stays, and one group") {
  CHECK_EQUAL(flrc::droppableGroups(1536, 64), 18);
  CHECK_EQUAL(flrc::droppableGroups(128, 64), 1);
  CHECK_EQUAL(flrc::droppableGroups(127, 64), 1);
  CHECK_EQUAL(flrc::droppableGroups(64, 64), 0);
  CHECK_EQUAL(flrc::droppableGroups(1, 1), 0);
  const Problem problem(1, 3, 8, 30);
  const ChannelRanking none = problem.rank(8, 8);
  CHECK(none.order.empty());
  CHECK(none.costs == std::vector<double>{0});
}

TEST("channels: one at a time, each is the one whose loss costs least once all others are refitted") {
  const Problem problem(2, 4, 12, 60);
  const ChannelRanking ranking = problem.rank(1, 1);
  CHECK_EQUAL(std::ssize(ranking.order), 9);
  for (int64_t step = 0; step < std::ssize(ranking.order); ++step) {
    std::vector<int32_t> gone(ranking.order.begin(), ranking.order.begin() + step);
    double least = std::numeric_limits<double>::infinity();
    int32_t cheapest = -1;
    for (int32_t c : problem.without(ranking.order, step)) {
      gone.push_back(c);
      const double cost = problem.bestCost(problem.without(gone, step + 1));
      gone.pop_back();
      if (cost < least) {
        least = cost;
        cheapest = c;
      }
    }
    CHECK_EQUAL(ranking.order[static_cast<size_t>(step)], cheapest);
    CHECK_NEAR(ranking.costs[static_cast<size_t>(step + 1)], least, 1e-9 * least);
  }
}

TEST("channels: costs are those of the direct refit, over many updates and several tiles") {
  const Problem problem(3, 6, 540, 700);
  const ChannelRanking ranking = problem.rank(45, 16);
  CHECK_EQUAL(std::ssize(ranking.costs), 10);
  CHECK_EQUAL(std::ssize(ranking.order), 405);
  for (size_t g = 1; g < ranking.costs.size(); ++g) CHECK(ranking.costs[g] > ranking.costs[g - 1]);
  for (const int64_t groups : {1, 6, 9}) {
    const double direct = problem.bestCost(problem.without(ranking.order, 45 * groups));
    CHECK_NEAR(ranking.costs[static_cast<size_t>(groups)], direct, 1e-7 * direct);
  }
  // The cheapest first gains over any other order.
  std::vector<int32_t> any(135);
  std::iota(any.begin(), any.end(), 0);
  CHECK(ranking.costs[3] < 0.8 * problem.bestCost(problem.without(any, 135)));
}

TEST("channels: the order is that of a plain version, across whole updates") {
  const Problem problem(8, 5, 360, 500);
  CHECK(problem.rank(90, 16).order == plainOrder(problem, 90, 16));
}

TEST("channels: a refit is that of least squares, and any change of it is worse") {
  const Problem problem(4, 5, 24, 90);
  const std::vector<int32_t> kept = problem.without(problem.rank(1, 1).order, 10);
  const Matrix refit = problem.refit(kept), direct = problem.refitted(kept);
  // A and the result are f32.
  CHECK_AT_MOST(reference::norm(reference::difference(refit, direct)), 2e-5 * reference::norm(direct));
  const double least = problem.cost(refit, kept);
  CHECK(least <
        0.5 * problem.cost(
                  [&] {
                    Matrix same(problem.m, std::ssize(kept));
                    for (int64_t i = 0; i < same.rows; ++i) {
                      for (int64_t j = 0; j < same.cols; ++j) {
                        same.at(i, j) =
                            problem.w[static_cast<size_t>(i * problem.n + kept[static_cast<size_t>(j)])];
                      }
                    }
                    return same;
                  }(),
                  kept));
  check::Random random(5);
  for (int i = 0; i < 20; ++i) {
    Matrix other = refit;
    other.at(random.below(other.rows), random.below(other.cols)) += i % 2 ? 0.01 : -0.01;
    CHECK(problem.cost(other, kept) > least);
  }
  std::vector<int32_t> all(24);
  std::iota(all.begin(), all.end(), 0);
  CHECK(problem.refit(all).values == reference::fromFloats(problem.w.data(), problem.m, problem.n).values);
}

TEST("channels: costs are scaled to those measured, by shares in between, and never fall") {
  std::vector<double> costs = {0, 1, 2, 3, 4, 5, 6};
  flrc::scaleCosts(costs, {{2, 4}, {4, 12}});
  CHECK(costs == (std::vector<double>{0, 2, 4, 7.5, 12, 15, 18}));
  costs = {0, 1, 2, 3, 4};
  flrc::scaleCosts(costs, {{2, 6}, {3, 3}});
  CHECK(costs == (std::vector<double>{0, 3, 6, 6, 6}));
  costs = {0, 0, 5};
  flrc::scaleCosts(costs, {{1, 1}, {1, 1}});
  CHECK(costs == (std::vector<double>{0, 0, 5}));
}

TEST("channels: what is always zero and what others say already costs nothing") {
  Problem problem(6, 5, 16, 80);
  for (int64_t t = 0; t < problem.x.rows; ++t) {
    problem.x.at(t, 3) = 0;
    problem.x.at(t, 9) = 2 * problem.x.at(t, 5);
    problem.x.at(t, 12) = problem.x.at(t, 1) - problem.x.at(t, 2);
  }
  const ChannelRanking ranking = problem.rank(1, 1);
  CHECK(std::find(ranking.order.begin(), ranking.order.begin() + 3, 3) != ranking.order.begin() + 3);
  CHECK_AT_MOST(ranking.costs[3], 1e-6 * ranking.costs[4]);
  const std::vector<int32_t> kept = problem.without(ranking.order, 3);
  // A in f32 cannot say more.
  CHECK_AT_MOST(problem.cost(problem.refit(kept), kept), 1e-6 * ranking.costs[4]);
}

TEST(
    "channels: of fewer tokens than channels the rest goes for nothing, and what goes then costs what it "
    "does") {
  const Problem problem(9, 5, 60, 40);
  const ChannelRankingOptions options{1, 4, problem.tokens(), 1e-10, 2};
  const ChannelRanking ranking =
      flrc::rankChannels(problem.w.data(), problem.m, problem.n, problem.a(), problem.b(), options, Job());
  CHECK_EQUAL(std::ssize(ranking.costs), 46);
  // All but what the jitter weighs.
  CHECK_AT_MOST(ranking.costs[20], 1e-5 * ranking.costs[21]);
  for (const int64_t gone : {24, 45}) {
    const double direct = problem.bestCost(problem.without(ranking.order, gone));
    CHECK_NEAR(ranking.costs[static_cast<size_t>(gone)], direct, 1e-5 * direct);
  }
}

TEST("channels: the same at any number of threads, and cancelled when asked to") {
  const Problem problem(7, 40, 600, 650);
  const ChannelRanking one = problem.rank(50, 16, 1), three = problem.rank(50, 16, 3);
  CHECK(one.order == three.order);
  CHECK(one.costs == three.costs);
  const std::vector<int32_t> kept = problem.without(one.order, 150);
  CHECK(problem.refit(kept, 1).values == problem.refit(kept, 3).values);
  Job job;
  job.cancel();
  const ChannelRankingOptions options{50, 16, 1, 0, 2};
  CHECK_THROWS(flrc::code::aborted, flrc::rankChannels(problem.w.data(), problem.m, problem.n, problem.a(),
                                                       problem.b(), options, job));
  const std::vector<float> packed(static_cast<size_t>(600 * 601 / 2), 1.0f);
  CHECK_THROWS(flrc::code::aborted,
               flrc::refitToKept(problem.w.data(), problem.m, problem.n, packed.data(), {1}, 0, 2, job));
}
