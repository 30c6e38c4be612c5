// Whole projections: dense, plain and pivoted, at every level, against the fp64 product of the factors.
#include "model/linear.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "check.h"
#include "linalg/pivot.h"

using flrc::Dtype;
using flrc::FactorBlock;
using flrc::Linear;
using flrc::LinearCall;
using flrc::LinearScratch;

namespace {

constexpr int64_t kM = 192, kN = 160;
const std::vector<int64_t> kBlocks = {64, 33, 20};  // lowest level first

struct Factors {
  int64_t rank = 0;
  std::vector<float> u, v;  // [rank, m], [rank, n]
};

Factors factors() {
  Factors factors;
  for (int64_t s : kBlocks) factors.rank += s;
  check::Random random(7);
  for (int64_t i = 0; i < factors.rank * kM; ++i) factors.u.push_back(static_cast<float>(random.normal()));
  for (int64_t i = 0; i < factors.rank * kN; ++i) factors.v.push_back(static_cast<float>(random.normal()));
  return factors;
}

Linear linear(const Factors& factors, Dtype dtype, bool pivoted) {
  Linear linear;
  linear.outputs = kM;
  linear.inputs = kN;
  linear.pivoted = pivoted;
  for (int64_t o = 0; o < kM; ++o) linear.bias.push_back(static_cast<float>(o % 7) - 3);
  if (!pivoted) {
    auto block = std::make_shared<FactorBlock>();
    block->p = flrc::makeRows(factors.v.data(), factors.rank, kN, kN, dtype);
    block->c = flrc::makePanels(factors.u.data(), factors.rank, kM, kM, dtype);
    linear.blocks.push_back(block);
    return linear;
  }
  int64_t begin = 0;
  for (int64_t s : kBlocks) {
    const auto cut = flrc::pivotBlock(factors.u.data() + begin * kM, factors.v.data() + begin * kN, s, kM, kN,
                                      2.0, flrc::Job());
    auto block = std::make_shared<FactorBlock>();
    block->p = flrc::makeRows(cut.p.data(), s, kN, kN, dtype);
    block->c = flrc::makePanels(cut.c.data(), s, kM - s, kM - s, dtype);
    block->pivot = cut.pivot;
    flrc::finishBlock(*block, kM);
    linear.blocks.push_back(block);
    begin += s;
  }
  return linear;
}

std::vector<float> inputs(int64_t columns) {
  check::Random random(11);
  std::vector<float> x;
  for (int64_t i = 0; i < columns * kN; ++i) x.push_back(static_cast<float>(random.normal()));
  return x;
}

std::vector<float> apply(const Linear& linear, int64_t rank, const std::vector<float>& x, int threads) {
  const auto columns = static_cast<int64_t>(x.size()) / kN;
  std::vector<float> y(static_cast<size_t>(columns * kM));
  LinearScratch scratch;
  const LinearCall call = {&linear, rank, y.data()};
  flrc::applyLinears(&call, 1, x.data(), columns, threads, scratch);
  return y;
}

// U_r V_r x + bias in fp64.
std::vector<double> product(const Factors& factors, const Linear& linear, int64_t rank,
                            const std::vector<float>& x) {
  std::vector<double> y;
  for (size_t column = 0; column < x.size() / kN; ++column) {
    std::vector<double> t(static_cast<size_t>(rank));
    for (int64_t j = 0; j < rank; ++j) {
      for (int64_t i = 0; i < kN; ++i) {
        t[static_cast<size_t>(j)] += static_cast<double>(factors.v[static_cast<size_t>(j * kN + i)]) *
                                     x[column * kN + static_cast<size_t>(i)];
      }
    }
    for (int64_t o = 0; o < kM; ++o) {
      double sum = linear.bias[static_cast<size_t>(o)];
      for (int64_t j = 0; j < rank; ++j) {
        sum += static_cast<double>(factors.u[static_cast<size_t>(j * kM + o)]) * t[static_cast<size_t>(j)];
      }
      y.push_back(sum);
    }
  }
  return y;
}

double relativeError(const std::vector<float>& got, const std::vector<double>& expected) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += std::pow(got[i] - expected[i], 2);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(error / norm);
}

std::vector<int64_t> levels() {
  std::vector<int64_t> ranks;
  int64_t sum = 0;
  for (int64_t s : kBlocks) ranks.push_back(sum += s);
  return ranks;
}

}  // namespace

TEST("linear: factored projections give the product of their factors at every level, dtype and batch") {
  const Factors all = factors();
  // int8: a group of 32 normal values is rounded with an error of 0.5% of its norm, in both factors, and C of
  // random blocks passes on about twice what P lost. int4 has steps 17 times as wide.
  const struct {
    Dtype dtype;
    double tolerance;
  } cases[] = {{Dtype::f32, 1e-5}, {Dtype::bf16, 1e-2}, {Dtype::int8, 2e-2}, {Dtype::int4, 0.3}};
  for (const auto& [dtype, tolerance] : cases) {
    for (bool pivoted : {true, false}) {
      const Linear projection = linear(all, dtype, pivoted);
      for (int64_t rank : levels()) {
        for (int64_t columns : {1, 5, 16, 40}) {
          const auto x = inputs(columns);
          CHECK_AT_MOST(relativeError(apply(projection, rank, x, 2), product(all, projection, rank, x)),
                        tolerance);
        }
      }
    }
  }
}

TEST("linear: rank 0 gives the bias, and a plain prefix may end anywhere") {
  const Factors all = factors();
  for (bool pivoted : {true, false}) {
    const Linear projection = linear(all, Dtype::f32, pivoted);
    for (int64_t columns : {1, 20}) {
      const auto y = apply(projection, 0, inputs(columns), 2);
      for (size_t i = 0; i < y.size(); ++i) CHECK_EQUAL(y[i], projection.bias[i % kM]);
    }
  }
  const Linear plain = linear(all, Dtype::f32, false);
  for (int64_t rank : {1, 50, 101}) {
    const auto x = inputs(3);
    CHECK_AT_MOST(relativeError(apply(plain, rank, x, 1), product(all, plain, rank, x)), 1e-5);
  }
}

TEST("linear: a column is bitwise the same alone, in any batch of 16 and at any thread count") {
  const Factors all = factors();
  for (Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::int8, Dtype::int4}) {
    for (bool pivoted : {true, false}) {
      const Linear projection = linear(all, dtype, pivoted);
      const auto x = inputs(16);
      const auto batch = apply(projection, levels().back(), x, 1);
      for (int threads : {1, 2, 4}) CHECK(apply(projection, levels().back(), x, threads) == batch);
      for (size_t column = 0; column < 16; ++column) {
        const std::vector<float> one(x.begin() + static_cast<std::ptrdiff_t>(column * kN),
                                     x.begin() + static_cast<std::ptrdiff_t>((column + 1) * kN));
        const auto y = apply(projection, levels().back(), one, 2);
        CHECK(std::equal(y.begin(), y.end(), batch.begin() + static_cast<std::ptrdiff_t>(column * kM)));
      }
    }
  }
}

TEST("linear: outputs of blocks whose panels begin at different outputs come together at any thread count") {
  constexpr int64_t kOutputs = 1500, kInputs = 64, kColumns = 2;
  check::Random random(13);
  const auto values = [&](int64_t count) {
    std::vector<float> all;
    for (int64_t i = 0; i < count; ++i) all.push_back(static_cast<float>(random.normal()));
    return all;
  };
  const auto x = values(kColumns * kInputs);
  Linear projection;
  projection.outputs = kOutputs;
  projection.inputs = kInputs;
  projection.bias = values(kOutputs);
  std::vector<double> exact;
  for (int64_t c = 0; c < kColumns; ++c)
    exact.insert(exact.end(), projection.bias.begin(), projection.bias.end());

  // Pivots are the first outputs, the last ones, and all of them.
  int64_t sum = 0;
  for (const auto& [first, rank] : {std::pair<int64_t, int64_t>{0, 400}, {1100, 400}, {0, kOutputs}}) {
    const int64_t rest = kOutputs - rank;
    const auto p = values(rank * kInputs), c = values(rank * rest);
    auto block = std::make_shared<FactorBlock>();
    block->p = flrc::makeRows(p.data(), rank, kInputs, kInputs, Dtype::f32);
    block->c = flrc::makePanels(c.data(), rank, rest, rest, Dtype::f32);
    for (int64_t j = 0; j < rank; ++j) block->pivot.push_back(static_cast<int32_t>(first + j));
    flrc::finishBlock(*block, kOutputs);
    projection.blocks.push_back(block);
    sum += rank;
    for (int64_t column = 0; column < kColumns; ++column) {
      std::vector<double> t(static_cast<size_t>(rank));
      for (int64_t i = 0; i < rank * kInputs; ++i) {
        t[static_cast<size_t>(i / kInputs)] += static_cast<double>(p[static_cast<size_t>(i)]) *
                                               x[static_cast<size_t>(column * kInputs + i % kInputs)];
      }
      double* y = exact.data() + column * kOutputs;
      for (int64_t j = 0; j < rank; ++j) {
        y[first + j] += t[static_cast<size_t>(j)];
        for (int64_t o = 0; o < rest; ++o) {
          y[o < first ? o : o + rank] +=
              static_cast<double>(c[static_cast<size_t>(j * rest + o)]) * t[static_cast<size_t>(j)];
        }
      }
    }

    std::vector<float> alone(kColumns * kOutputs), y(alone.size());
    LinearScratch scratch;
    const LinearCall call = {&projection, sum, alone.data()}, again = {&projection, sum, y.data()};
    flrc::applyLinears(&call, 1, x.data(), kColumns, 1, scratch);
    CHECK_AT_MOST(relativeError(alone, exact), 1e-5);
    for (int round = 0; round < 30; ++round) {
      std::fill(y.begin(), y.end(), 0.0f);
      flrc::applyLinears(&again, 1, x.data(), kColumns, 2 + round % 4, scratch, {&again, 1});
      CHECK(y == alone);
    }
  }
}

TEST("linear: what a level reads is counted as its blocks' parameters") {
  const Factors all = factors();
  const Linear pivoted = linear(all, Dtype::bf16, true), plain = linear(all, Dtype::bf16, false);
  CHECK_EQUAL(pivoted.parameters(97), 64 * (kM + kN - 64) + 33 * (kM + kN - 33));
  CHECK_EQUAL(plain.parameters(97), 97 * (kM + kN));
  CHECK_EQUAL(pivoted.blocksFor(97), 2);
  CHECK_EQUAL(pivoted.blocksFor(96), 1);
  CHECK(pivoted.weightBytes(64) < pivoted.weightBytes(97));
}

TEST("linear: pivots that are unordered or outside the outputs are refused") {
  for (const std::vector<int32_t>& pivot : {std::vector<int32_t>{3, 2}, {2, 2}, {-1, 4}, {4, 192}}) {
    FactorBlock block;
    block.p = flrc::allocateRows(2, kN, Dtype::f32);
    block.pivot = pivot;
    CHECK_THROWS("E_MODEL_FORMAT", flrc::finishBlock(block, kM));
  }
}
