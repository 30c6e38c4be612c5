// Products of f32 matrices rounded to bf16, where this processor has them.
#include "linalg/bf16_gemm.h"

#include <cmath>
#include <vector>

#include "check.h"
#include "linalg/fisher.h"
#include "model/wide_matrix.h"

using namespace flrc;

namespace {

constexpr float kUntouched = 12345.0f;

double rounded(float value) { return bf16ToFloat(floatToBf16(value)); }

struct Sum {
  double value, error;
};

// start + sum_i a(i) b(i) of rounded factors. Products of them are exact in f32; two roundings of 2^-24 a
// product, and a few for the sum and what it is added to, are left.
template <typename A, typename B>
Sum sumOf(double start, int64_t count, const A& a, const B& b) {
  double sum = start, terms = std::abs(start);
  for (int64_t i = 0; i < count; ++i) {
    const double term = rounded(a(i)) * rounded(b(i));
    sum += term;
    terms += std::abs(term);
  }
  return {sum, static_cast<double>(2 * count + 4) * 0x1p-24 * terms};
}

template <typename A, typename B>
void checkSum(float y, double start, int64_t count, const A& a, const B& b) {
  const Sum sum = sumOf(start, count, a, b);
  CHECK_NEAR(y, sum.value, sum.error);
}

constexpr int64_t kSizes[] = {1, 2, 11, 12, 13, 31, 33, 75};
constexpr int64_t kInputs[] = {1, 2, 15, 16, 32, 33, 97, 513, 1030};

}  // namespace

TEST("bf16: x W by rows of W and by columns, of any shape, made anew or added") {
  if (!multipliesBf16()) return;
  for (const int64_t outputs : kSizes) {
    for (const int64_t inputs : kInputs) {
      for (const int64_t columns : {1, 12, 29}) {
        check::Random random(static_cast<uint64_t>(outputs * inputs + columns));
        const int64_t ldx = inputs + 1, ldy = outputs + 2;
        const std::vector<float> w = random.floats(inputs * outputs), x = random.floats(columns * ldx);
        for (const bool byRows : {false, true}) {
          cpu::Bf16Panels panels;
          byRows ? setRows(w.data(), outputs, inputs, outputs, panels)
                 : setColumns(w.data(), outputs, inputs, panels);
          for (const bool adds : {false, true}) {
            std::vector<float> y(static_cast<size_t>(columns * ldy), kUntouched);
            bf16Times(x.data(), ldx, columns, panels, adds, y.data(), ldy);
            for (int64_t c = 0; c < columns; ++c) {
              for (int64_t o = 0; o < outputs; ++o) {
                const auto weight = [&](int64_t i) { return w[byRows ? i * outputs + o : o * inputs + i]; };
                checkSum(y[c * ldy + o], adds ? kUntouched : 0.0, inputs, weight,
                         [&](int64_t i) { return x[c * ldx + i]; });
              }
              for (int64_t o = outputs; o < ldy; ++o) CHECK_EQUAL(y[c * ldy + o], kUntouched);
            }
          }
        }
      }
    }
  }
}

TEST("bf16: A^T B of any shape, made anew or added") {
  if (!multipliesBf16()) return;
  for (const int64_t m : kSizes) {
    for (const int64_t n : kSizes) {
      for (const int64_t k : kInputs) {
        check::Random random(static_cast<uint64_t>(m * n + k));
        const int64_t lda = m + 1, ldb = n + 3, ldc = n + 2;
        const std::vector<float> a = random.floats(k * lda), b = random.floats(k * ldb);
        std::vector<float> c(static_cast<size_t>(m * ldc), kUntouched);
        bf16Products(m, n, k, a.data(), lda, b.data(), ldb, k % 2 == 1, c.data(), ldc);
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            checkSum(
                c[i * ldc + j], k % 2 == 1 ? kUntouched : 0.0, k, [&](int64_t t) { return a[t * lda + i]; },
                [&](int64_t t) { return b[t * ldb + j]; });
          }
          for (int64_t j = n; j < ldc; ++j) CHECK_EQUAL(c[i * ldc + j], kUntouched);
        }
      }
    }
  }
}

TEST("bf16: scores are the sums over products of rounded inputs and gradients") {
  if (!multipliesBf16()) return;
  // More rows than are formed at once.
  constexpr int64_t kRows = 300, kCols = 45, kTokens = 33;
  check::Random random(11);
  const std::vector<float> x = random.floats(kTokens * kCols), g = random.floats(kTokens * kRows),
                           w = random.floats(kRows * kCols);
  double expected[3] = {}, spread[3] = {};
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < kCols; ++c) {
      // A square moves by twice the entry's error times the entry.
      const auto [sum, error] = sumOf(
          0, kTokens, [&](int64_t t) { return g[t * kRows + r]; }, [&](int64_t t) { return x[t * kCols + c]; });
      const double weight = std::abs(w[r * kCols + c]), size = std::abs(sum) + error;
      const double values[] = {std::pow(sum * weight, 2), sum * sum, std::abs(sum) * weight};
      const double errors[] = {2 * size * error * weight * weight, 2 * size * error, error * weight};
      for (int i = 0; i < 3; ++i) {
        expected[i] += values[i];
        spread[i] += errors[i] + 4 * 0x1p-24 * values[i];
      }
    }
  }
  const FisherScore got = fisherScore(x.data(), g.data(), w.data(), kTokens, kRows, kCols, true);
  CHECK_NEAR(got.weighted, expected[0], spread[0]);
  CHECK_NEAR(got.gradient, expected[1], spread[1]);
  CHECK_NEAR(got.taylor, expected[2], spread[2]);
}

TEST("bf16: a matrix multiplies both ways, rounded or not") {
  if (!multipliesBf16()) return;
  constexpr int64_t kRows = 45, kCols = 70, kTokens = 14;
  check::Random random(7);
  const std::vector<float> values = random.floats(kRows * kCols), x = random.floats(kTokens * kCols),
                           g = random.floats(kTokens * kRows);
  const WideMatrix wide{kRows, kCols, values, {}, {}}, none;
  WideMatrix half, still;
  roundToBf16({{&wide, &half}, {&none, &still}}, 2);
  CHECK(half.rounded() && !wide.rounded() && !still.rounded());
  CHECK(half.values.empty());
  for (const bool back : {false, true}) {
    const int64_t outputs = back ? kCols : kRows, inputs = back ? kRows : kCols;
    const std::vector<float>& of = back ? g : x;
    std::vector<float> exact(static_cast<size_t>(kTokens * outputs)), got(exact.size());
    back ? wide.backwards(of.data(), kTokens, false, exact.data())
         : wide.forwards(of.data(), kTokens, false, exact.data());
    back ? half.backwards(of.data(), kTokens, false, got.data())
         : half.forwards(of.data(), kTokens, false, got.data());
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t o = 0; o < outputs; ++o) {
        double terms = 0;
        for (int64_t i = 0; i < inputs; ++i) {
          terms +=
              std::abs(static_cast<double>(values[back ? i * kCols + o : o * kCols + i]) * of[t * inputs + i]);
        }
        // Each factor is off by 2^-9 of itself at most, and the sums' own roundings are far below that.
        CHECK_NEAR(got[t * outputs + o], exact[t * outputs + o], 1.01 * 0x1p-8 * terms);
      }
    }
  }
}
