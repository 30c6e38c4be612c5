// Rounding to int8 and int4 against moments.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "check.h"
#include "quantise/block.h"
#include "reference.h"

using namespace flrc;
using reference::Matrix;

namespace {

using Values = std::vector<double>;

Values doubles(const std::vector<float>& values) { return {values.begin(), values.end()}; }

Matrix matrixOf(const Values& values, int64_t rows, int64_t cols) {
  Matrix matrix(rows, cols);
  matrix.values = values;
  return matrix;
}

// Inputs as layers see them: neighbours alike, a few directions and channels far above the rest.
PackedSymmetric correlated(check::Random& random, int64_t n, int64_t tokens) {
  Matrix x(tokens, n);
  for (int64_t t = 0; t < tokens; ++t) {
    double before = random.normal();
    const double common = 3 * random.normal();
    for (int64_t i = 0; i < n; ++i) {
      before = 0.9 * before + 0.3 * random.normal();
      x.at(t, i) = (before + common * (i % 3)) * (i % 17 == 5 ? 8 : 1);
    }
  }
  return reference::moment(x);
}

Matrix damped(const PackedSymmetric& moment, double damping) {
  Matrix full = matrixOf(moment.dense(), moment.n, moment.n);
  for (int64_t i = 0; i < moment.n; ++i) full.at(i, i) *= 1 + damping;
  return full;
}

// tr(E A E^T)
double size(const Matrix& e, const Matrix& a) {
  const Matrix ea = reference::product(e, a);
  double sum = 0;
  for (size_t i = 0; i < e.values.size(); ++i) sum += e.values[i] * ea.values[i];
  return sum;
}

// What the stored rows hold, through the library's own matrix.
Matrix stored(const RoundedMatrix& rounded, int64_t cols, Dtype dtype) {
  const auto rows = static_cast<int64_t>(rounded.rows.size());
  RowMatrix matrix = allocateRows(rows, cols, dtype);
  std::vector<float> values(static_cast<size_t>(rows * cols));
  for (int64_t i = 0; i < rows; ++i) {
    loadRows(matrix, i, 1, rounded.rows[static_cast<size_t>(i)]);
    getRow(matrix, i, values.data() + i * cols);
  }
  return reference::fromFloats(values.data(), rows, cols);
}

bool sameBytes(const RoundedMatrix& a, const RoundedMatrix& b) {
  return a.values == b.values && std::equal(a.rows.begin(), a.rows.end(), b.rows.begin(), b.rows.end(),
                                            [](const StoredRow& x, const StoredRow& y) {
                                              return x.data == y.data && x.scale == y.scale && x.zero == y.zero;
                                            });
}

// What a block computes, as an m x n matrix.
Matrix productOf(const PivotedBlock& block, const Matrix& p, const Matrix& c) {
  const Matrix others = reference::product(reference::transpose(c), p);
  Matrix y(block.m, block.n);
  const auto pivots = static_cast<int64_t>(block.pivot.size());
  int64_t pivot = 0;
  for (int64_t o = 0; o < block.m; ++o) {
    const bool isPivot = pivot < pivots && block.pivot[static_cast<size_t>(pivot)] == o;
    for (int64_t j = 0; j < block.n; ++j) y.at(o, j) = isPivot ? p.at(pivot, j) : others.at(o - pivot, j);
    pivot += isPivot ? 1 : 0;
  }
  return y;
}

int64_t restOf(const PivotedBlock& block) { return block.m - static_cast<int64_t>(block.pivot.size()); }

Matrix exactProduct(const PivotedBlock& block) {
  return productOf(block, reference::fromFloats(block.p.data(), block.rank, block.n),
                   reference::fromFloats(block.c.data(), block.rank, restOf(block)));
}

Matrix storedProduct(const PivotedBlock& block, const RoundedBlock& rounded, Dtype dtype) {
  return productOf(block, stored(rounded.p, block.n, dtype),
                   restOf(block) == 0 ? Matrix(block.rank, 0) : stored(rounded.c, restOf(block), dtype));
}

RoundedBlock plainBlock(const PivotedBlock& block, Dtype dtype) {
  return {roundPlain(doubles(block.p), block.rank, block.n, dtype),
          roundPlain(doubles(block.c), block.rank, restOf(block), dtype)};
}

// Factors whose ranks fall in size, as those of a weight do.
std::vector<float> falling(check::Random& random, int64_t s, int64_t width) {
  std::vector<float> values = random.floats(s * width);
  for (int64_t j = 0; j < s; ++j) {
    for (int64_t i = 0; i < width; ++i) values[static_cast<size_t>(j * width + i)] /= static_cast<float>(1 + j);
  }
  return values;
}

PivotedBlock blockOf(check::Random& random, int64_t s, int64_t m, int64_t n) {
  const std::vector<float> u = random.floats(s * m), v = falling(random, s, n);
  return pivotBlock(u.data(), v.data(), s, m, n, 2, Job());
}

constexpr double kDamping = 0.01;

}  // namespace

TEST("rounding: a metric's root is that of the damped matrix, its groups stay whole") {
  check::Random random(1);
  for (const int64_t n : {1, 7, 33, 70}) {
    const PackedSymmetric moment = correlated(random, n, 2 * n + 3);
    for (const int64_t together : {int64_t{1}, kGroup}) {
      const Metric metric = makeMetric(moment, kDamping, together);
      const Matrix full = damped(moment, kDamping), root = matrixOf(metric.root, n, n);
      const Matrix product = reference::product(root, reference::transpose(root));
      CHECK_EQUAL(std::set<int64_t>(metric.order.begin(), metric.order.end()).size(), static_cast<size_t>(n));
      for (int64_t i = 0; i < n; ++i) {
        const int64_t row = metric.order[static_cast<size_t>(i)];
        for (int64_t j = 0; j < n; ++j) {
          CHECK_NEAR(product.at(i, j), full.at(row, metric.order[static_cast<size_t>(j)]),
                     1e-6 * reference::largest(full));
          if (j < i) CHECK_EQUAL(root.at(i, j), 0.0);
        }
        const bool begins = i == 0 || metric.order[static_cast<size_t>(i - 1)] / together != row / together;
        if (begins) continue;
        CHECK(full.at(row, row) <=
              full.at(metric.order[static_cast<size_t>(i - 1)], metric.order[static_cast<size_t>(i - 1)]));
      }
      std::set<int64_t> seen;
      for (int64_t i = 0; i < n; ++i) {
        const int64_t run = metric.order[static_cast<size_t>(i)] / together;
        CHECK(i > 0 && metric.order[static_cast<size_t>(i - 1)] / together == run ? true
                                                                                  : seen.insert(run).second);
      }

      Values x = doubles(random.floats(n * 3));
      const Matrix b = reference::product(full, matrixOf(x, n, 3));
      Values solved = b.values;
      solve(metric, 3, solved);
      CHECK_AT_MOST(reference::largest(reference::difference(matrixOf(solved, n, 3), matrixOf(x, n, 3))), 1e-3);
      const Values rows = doubles(random.floats(2 * n));
      const Matrix seenRows = matrixOf(weighed(metric, 2, rows), 2, n);
      CHECK_NEAR(std::pow(reference::norm(seenRows), 2), size(matrixOf(rows, 2, n), full),
                 1e-6 * std::pow(reference::norm(seenRows), 2));
    }
  }
}

TEST("rounding: what is stored is what the values say, and without a metric int8 is plain rounding") {
  check::Random random(2);
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 1}, {3, 31}, {5, 32}, {4, 77}}) {
    const Values w = doubles(random.floats(rows * cols));
    const Metric left = makeMetric(correlated(random, rows, 40), kDamping, 1);
    const Metric right = makeMetric(correlated(random, cols, 40), kDamping, kGroup);
    for (const Dtype dtype : {Dtype::int8, Dtype::int4}) {
      for (const Metric* l : {static_cast<const Metric*>(nullptr), &left}) {
        for (const Metric* r : {static_cast<const Metric*>(nullptr), &right}) {
          const RoundedMatrix rounded = roundAgainst(w, rows, cols, dtype, l, r, Job());
          CHECK(stored(rounded, cols, dtype).values == rounded.values);
          CHECK(sameBytes(rounded, roundAgainst(w, rows, cols, dtype, l, r, Job())));
        }
      }
      CHECK(stored(roundPlain(w, rows, cols, dtype), cols, dtype).values ==
            roundPlain(w, rows, cols, dtype).values);
    }
    CHECK(sameBytes(roundAgainst(w, rows, cols, Dtype::int8, nullptr, nullptr, Job()),
                    roundPlain(w, rows, cols, Dtype::int8)));
  }
}

TEST("rounding: every weight makes up for all errors before it, on both sides") {
  check::Random random(3);
  const int64_t rows = 37, cols = 70;
  const Values w = doubles(random.floats(rows * cols));
  const Metric left = makeMetric(correlated(random, rows, 90), kDamping, 1);
  const Metric right = makeMetric(correlated(random, cols, 200), kDamping, kGroup);
  const RoundedMatrix rounded = roundAgainst(w, rows, cols, Dtype::int8, &left, &right, Job());
  Matrix errors(rows, cols), l = matrixOf(left.root, rows, rows), r = matrixOf(right.root, cols, cols);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) {
      const int64_t at = left.order[static_cast<size_t>(i)] * cols + right.order[static_cast<size_t>(j)];
      errors.at(i, j) = rounded.values[static_cast<size_t>(at)] - w[static_cast<size_t>(at)];
    }
  }
  const Matrix seen = reference::product(reference::product(reference::transpose(l), errors), r);
  int64_t inside = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t row = left.order[static_cast<size_t>(i)];
    for (int64_t j = 0; j < cols; ++j) {
      const int64_t col = right.order[static_cast<size_t>(j)];
      const StoredRow& from = rounded.rows[static_cast<size_t>(row)];
      // At the ends of the grid a weight may be clipped.
      if (std::abs(static_cast<int8_t>(from.data[static_cast<size_t>(col)])) == 127) continue;
      ++inside;
      uint16_t bits = 0;
      std::copy_n(from.scale.data() + col / kGroup * 2, 2, reinterpret_cast<uint8_t*>(&bits));
      const double half = static_cast<double>(bf16ToFloat(bits)) / 2;
      CHECK_AT_MOST(std::abs(seen.at(i, j)), half * l.at(i, i) * r.at(j, j) * (1 + 1e-6));
    }
  }
  CHECK(inside > rows * cols * 9 / 10);
}

TEST("rounding: no dense row is worse than plainly rounded, and most are far better on correlated inputs") {
  check::Random random(4);
  for (const auto& [rows, cols, tokens] :
       {std::array<int64_t, 3>{1, 1, 4}, {6, 40, 20}, {20, 64, 400}, {24, 150, 600}}) {
    const Values w = doubles(random.floats(rows * cols));
    const PackedSymmetric moment = correlated(random, cols, tokens);
    const Metric metric = makeMetric(moment, kDamping, kGroup);
    const Matrix a = damped(moment, kDamping), exact = matrixOf(w, rows, cols);
    for (const Dtype dtype : {Dtype::int8, Dtype::int4}) {
      const Matrix ours = stored(roundRows(w, rows, cols, dtype, metric, Job()), cols, dtype);
      const Matrix plain = stored(roundPlain(w, rows, cols, dtype), cols, dtype);
      for (int64_t i = 0; i < rows; ++i) {
        Matrix mine(1, cols), theirs(1, cols);
        for (int64_t j = 0; j < cols; ++j) {
          mine.at(0, j) = ours.at(i, j) - exact.at(i, j);
          theirs.at(0, j) = plain.at(i, j) - exact.at(i, j);
        }
        CHECK_AT_MOST(size(mine, a), size(theirs, a) * (1 + 1e-9));
      }
      if (cols < 64) continue;
      CHECK_AT_MOST(size(reference::difference(ours, exact), a),
                    0.35 * size(reference::difference(plain, exact), a));
    }
  }
}

TEST("rounding: a block's product is never worse than plainly rounded, and far better on correlated inputs") {
  check::Random random(5);
  const int64_t shapes[][3] = {{1, 1, 1},    {1, 9, 5},     {3, 3, 40},   {20, 50, 33},
                               {40, 64, 96}, {50, 120, 64}, {64, 64, 70}, {90, 100, 100}};
  for (const auto& [s, m, n] : shapes) {
    const PivotedBlock block = blockOf(random, s, m, n);
    const PackedSymmetric moment = correlated(random, n, 4 * n);
    const Metric metric = makeMetric(moment, kDamping, kGroup);
    const Matrix a = damped(moment, kDamping), exact = exactProduct(block);
    for (const Dtype dtype : {Dtype::int8, Dtype::int4}) {
      Values owed(static_cast<size_t>(m * n));
      const RoundedBlock rounded = roundFactors(block, dtype, metric, owed, Job());
      const Matrix lost = reference::difference(exact, storedProduct(block, rounded, dtype));
      const Matrix plain = reference::difference(exact, storedProduct(block, plainBlock(block, dtype), dtype));
      CHECK_AT_MOST(size(lost, a), size(plain, a) * (1 + 1e-6));
      if (s >= 20 && s < m) CHECK_AT_MOST(size(lost, a), 0.4 * size(plain, a));
      CHECK_AT_MOST(reference::largest(reference::difference(lost, matrixOf(owed, m, n))),
                    1e-9 * reference::largest(exact));
      Values again(static_cast<size_t>(m * n));
      const RoundedBlock twice = roundFactors(block, dtype, metric, again, Job());
      CHECK(sameBytes(rounded.p, twice.p) && sameBytes(rounded.c, twice.c) && owed == again);
    }
  }
}

TEST("rounding: plain factors, whose ranks differ in size by orders of magnitude") {
  check::Random random(6);
  const int64_t s = 40, m = 70, n = 90;
  PivotedBlock pair = {m, n, s, random.floats(s * n), random.floats(s * m), {}};
  for (int64_t j = 0; j < s; ++j) {
    for (int64_t i = 0; i < n; ++i) {
      pair.p[static_cast<size_t>(j * n + i)] *= std::pow(10.0f, -static_cast<float>(j) / 10);
    }
  }
  const PackedSymmetric moment = correlated(random, n, 400);
  const Metric metric = makeMetric(moment, kDamping, kGroup);
  const Matrix a = damped(moment, kDamping), exact = exactProduct(pair);
  for (const Dtype dtype : {Dtype::int8, Dtype::int4}) {
    Values owed(static_cast<size_t>(m * n));
    const RoundedBlock rounded = roundFactors(pair, dtype, metric, owed, Job());
    const Matrix lost = reference::difference(exact, storedProduct(pair, rounded, dtype));
    const Matrix plain = reference::difference(exact, storedProduct(pair, plainBlock(pair, dtype), dtype));
    CHECK_AT_MOST(size(lost, a), 0.5 * size(plain, a));
  }
}

TEST("rounding: a block makes up for what those below it lack") {
  check::Random random(7);
  const int64_t m = 60, n = 80;
  const PivotedBlock low = blockOf(random, 30, m, n), high = blockOf(random, 25, m, n);
  const PackedSymmetric moment = correlated(random, n, 300);
  const Metric metric = makeMetric(moment, kDamping, kGroup);
  const Matrix a = damped(moment, kDamping);
  Values owed(static_cast<size_t>(m * n)), nothing(static_cast<size_t>(m * n));
  const RoundedBlock first = roundFactors(low, Dtype::int4, metric, owed, Job());
  const RoundedBlock second = roundFactors(high, Dtype::int4, metric, owed, Job());
  const RoundedBlock alone = roundFactors(high, Dtype::int4, metric, nothing, Job());
  const Matrix lostBelow = reference::difference(exactProduct(low), storedProduct(low, first, Dtype::int4));
  const auto lost = [&](const RoundedBlock& above) {
    Matrix left = reference::difference(exactProduct(high), storedProduct(high, above, Dtype::int4));
    for (size_t i = 0; i < left.values.size(); ++i) left.values[i] += lostBelow.values[i];
    return left;
  };
  CHECK_AT_MOST(reference::largest(reference::difference(lost(second), matrixOf(owed, m, n))), 1e-8);
  CHECK_AT_MOST(size(lost(second), a), 0.9 * size(lost(alone), a));
}

TEST("rounding: singular moments and blocks that lack ranks give finite factors") {
  check::Random random(8);
  const int64_t s = 12, m = 30, n = 45;
  std::vector<float> u = random.floats(s * m), v = random.floats(s * n);
  std::copy_n(u.begin(), m, u.begin() + 3 * m);
  std::fill_n(u.begin() + 5 * m, m, 0.0f);
  const PivotedBlock lacking = pivotBlock(u.data(), v.data(), s, m, n, 2, Job());
  const PivotedBlock zero =
      pivotBlock(std::vector<float>(static_cast<size_t>(s * m)).data(), v.data(), s, m, n, 2, Job());
  const PackedSymmetric nothing(n), few = correlated(random, n, 3);
  for (const PivotedBlock* block : {&lacking, &zero}) {
    for (const PackedSymmetric* moment : {&nothing, &few}) {
      for (const Dtype dtype : {Dtype::int8, Dtype::int4}) {
        Values owed(static_cast<size_t>(m * n));
        const RoundedBlock rounded =
            roundFactors(*block, dtype, makeMetric(*moment, kDamping, kGroup), owed, Job());
        const Matrix product = storedProduct(*block, rounded, dtype);
        for (const double value : product.values) CHECK(std::isfinite(value));
        if (block == &zero) CHECK_EQUAL(reference::largest(product), 0.0);
      }
    }
  }
}

TEST("rounding: a cancelled job and weights and moments that are not finite are refused") {
  check::Random random(9);
  Values w = doubles(random.floats(4 * 40));
  PackedSymmetric moment = correlated(random, 40, 100);
  const Metric metric = makeMetric(moment, kDamping, kGroup);
  Job cancelled;
  cancelled.cancel();
  CHECK_THROWS(code::aborted, roundRows(w, 4, 40, Dtype::int4, metric, cancelled));
  CHECK_THROWS(code::aborted, makeMetric(moment, kDamping, kGroup, cancelled));
  w[7] = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS(code::numeric, roundRows(w, 4, 40, Dtype::int4, metric, Job()));
  moment.values[5] = std::numeric_limits<double>::infinity();
  CHECK_THROWS(code::numeric, makeMetric(moment, kDamping, kGroup));
}
