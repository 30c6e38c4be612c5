#include "linalg/pivot.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "check.h"
#include "reference.h"

using namespace flrc;
using reference::Matrix;

namespace {

constexpr double kBound = 2.0;

// What the block computes, as an m x n matrix: rows I are P, the others C P.
Matrix productOf(const PivotedBlock& block) {
  const int64_t s = block.rank, m = block.m;
  const Matrix p = reference::fromFloats(block.p.data(), s, block.n);
  const Matrix c = reference::transpose(reference::fromFloats(block.c.data(), s, m - s));
  const Matrix rest = reference::product(c, p);
  Matrix y(m, block.n);
  int64_t pivot = 0;
  for (int64_t o = 0; o < m; ++o) {
    const bool isPivot = pivot < s && block.pivot[static_cast<size_t>(pivot)] == o;
    for (int64_t j = 0; j < block.n; ++j) y.at(o, j) = isPivot ? p.at(pivot, j) : rest.at(o - pivot, j);
    pivot += isPivot ? 1 : 0;
  }
  CHECK_EQUAL(pivot, s);
  return y;
}

PivotedBlock checkBlock(const std::vector<float>& u, const std::vector<float>& v, int64_t s, int64_t m,
                        int64_t n, double bound = kBound) {
  const PivotedBlock block = pivotBlock(u.data(), v.data(), s, m, n, bound, Job());
  CHECK_EQUAL(block.rank, s);
  CHECK_EQUAL(block.p.size(), static_cast<size_t>(s * n));
  CHECK_EQUAL(block.c.size(), static_cast<size_t>(s * (m - s)));
  CHECK_EQUAL(block.pivot.size(), static_cast<size_t>(s));
  CHECK(std::adjacent_find(block.pivot.begin(), block.pivot.end(), std::greater_equal<>()) ==
        block.pivot.end());
  for (const int32_t pivot : block.pivot) CHECK(pivot >= 0 && pivot < m);
  for (const float value : block.p) CHECK(std::isfinite(value));
  // Bounded in fp64; the stored value is rounded to fp32.
  for (const float value : block.c) CHECK_AT_MOST(std::abs(value), bound * (1 + 0x1p-23));

  const Matrix expected = reference::product(reference::transpose(reference::fromFloats(u.data(), s, m)),
                                             reference::fromFloats(v.data(), s, n));
  // P and C are rounded to fp32: each of the s terms of an output is at most `bound` |P| and is off by two
  // roundings of relative 2^-24.
  const double tolerance = (static_cast<double>(s) * bound * 2 + 1) * 0x1p-24 * reference::largest(expected);
  CHECK_AT_MOST(reference::largest(reference::difference(productOf(block), expected)), tolerance);
  return block;
}

}  // namespace

TEST("pivot: rows I and C P are the product, and C is bounded, for all shapes") {
  check::Random random(1);
  const int64_t shapes[][3] = {{1, 1, 1}, {1, 10, 3}, {5, 12, 9}, {20, 24, 40}, {30, 100, 60}, {64, 65, 20}};
  for (const auto& [s, m, n] : shapes) checkBlock(random.floats(s * m), random.floats(s * n), s, m, n);
}

TEST("pivot: as many ranks as outputs leave no rest") {
  check::Random random(2);
  const PivotedBlock block = checkBlock(random.floats(16 * 16), random.floats(16 * 24), 16, 16, 24);
  for (int32_t i = 0; i < 16; ++i) CHECK_EQUAL(block.pivot[static_cast<size_t>(i)], i);
}

TEST("pivot: an empty block") { checkBlock({}, {}, 0, 8, 8); }

TEST("pivot: ranks of very different scale") {
  check::Random random(3);
  const int64_t s = 24, m = 60, n = 50;
  std::vector<float> u = random.floats(s * m), v = random.floats(s * n);
  for (int64_t j = 0; j < s; ++j) {
    const float scale = std::pow(10.0f, -static_cast<float>(j) / 4);
    for (int64_t o = 0; o < m; ++o) u[static_cast<size_t>(j * m + o)] *= scale;
    for (int64_t i = 0; i < n; ++i) v[static_cast<size_t>(j * n + i)] /= scale;
  }
  checkBlock(u, v, s, m, n);
}

TEST("pivot: exchanges reach bounds that QR with column pivoting alone does not") {
  check::Random random(4);
  for (const double bound : {1.5, 1.1, 1.01}) {
    checkBlock(random.floats(20 * 90), random.floats(20 * 30), 20, 90, 30, bound);
    checkBlock(random.floats(50 * 70), random.floats(50 * 60), 50, 70, 60, bound);
  }
}

TEST("pivot: a block that lacks ranks has exact zeros in C for them, never NaN") {
  check::Random random(5);
  const int64_t s = 9, m = 30, n = 20;
  std::vector<float> u = random.floats(s * m), v = random.floats(s * n);
  // Rank 2 twice, one rank of zeros: seven independent ones are left.
  std::copy_n(u.begin() + 2 * m, m, u.begin() + 4 * m);
  std::fill_n(u.begin() + 6 * m, m, 0.0f);
  const PivotedBlock block = checkBlock(u, v, s, m, n);
  int64_t unused = 0;
  for (int64_t j = 0; j < s; ++j) {
    unused += std::all_of(block.c.begin() + j * (m - s), block.c.begin() + (j + 1) * (m - s),
                          [](float value) { return value == 0; });
  }
  CHECK_EQUAL(unused, 2);

  const PivotedBlock zeros = checkBlock(std::vector<float>(static_cast<size_t>(s * m)), v, s, m, n);
  for (const float value : zeros.p) CHECK_EQUAL(value, 0.0f);
  for (const float value : zeros.c) CHECK_EQUAL(value, 0.0f);
}

TEST("pivot: many equal outputs") {
  check::Random random(6);
  const int64_t s = 6, m = 40, n = 15;
  std::vector<float> u(static_cast<size_t>(s * m));
  const std::vector<float> kinds = random.floats(s * 8);
  for (int64_t j = 0; j < s; ++j) {
    for (int64_t o = 0; o < m; ++o)
      u[static_cast<size_t>(j * m + o)] = kinds[static_cast<size_t>(j * 8 + o % 8)];
  }
  checkBlock(u, random.floats(s * n), s, m, n);
}

TEST("pivot: the same block gives the same bytes") {
  check::Random random(7);
  const std::vector<float> u = random.floats(25 * 80), v = random.floats(25 * 33);
  const PivotedBlock one = checkBlock(u, v, 25, 80, 33), two = checkBlock(u, v, 25, 80, 33);
  CHECK(one.p == two.p && one.c == two.c && one.pivot == two.pivot);
}

TEST("pivot: a cancelled job, too many ranks and a broken factor are refused") {
  check::Random random(8);
  std::vector<float> u = random.floats(4 * 9), v = random.floats(4 * 5);
  Job cancelled;
  cancelled.cancel();
  CHECK_THROWS(code::aborted, pivotBlock(u.data(), v.data(), 4, 9, 5, kBound, cancelled));
  CHECK_THROWS(code::internal, pivotBlock(u.data(), v.data(), 4, 3, 5, kBound, Job()));
  u[3] = std::numeric_limits<float>::infinity();
  CHECK_THROWS(code::numeric, pivotBlock(u.data(), v.data(), 4, 9, 5, kBound, Job()));
}
