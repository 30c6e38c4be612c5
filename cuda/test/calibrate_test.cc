// kernels/calibrate.h against fp64: Fisher scores and moments.

#include "kernels/calibrate.h"

#include <algorithm>
#include <cmath>

#include "check.h"
#include "kernels/layout.h"
#include "tensor/matrix.h"
#include "test/device.h"

using namespace flrc::gpu;
using flrc::Dtype;
using test::Array;
using test::Device;

namespace {

constexpr double kUlp = 0x1p-24;

// Activations [sequences * tokens][width] in rows of ld, what lies behind a row's width NaN.
struct Sample {
  Passage passage;
  int width;
  int64_t ld;
  std::vector<uint16_t> bits;

  Sample(Passage of, int values, check::Random& random) : passage(of), width(values), ld((values + 7) / 8 * 8) {
    bits.assign(static_cast<size_t>(of.sequences * of.tokens * ld), 0x7fc0);
    for (int t = 0; t < of.sequences * of.tokens; ++t) {
      for (int i = 0; i < width; ++i) bits[at(t, i)] = flrc::floatToBf16(static_cast<float>(random.normal()));
    }
  }
  size_t at(int token, int i) const { return static_cast<size_t>(token * ld + i); }
  double value(int token, int i) const { return static_cast<double>(flrc::bf16ToFloat(bits[at(token, i)])); }
};

// Scores of every dtype, sequences apart, of any shape, by each of these numbers of multiprocessors with
// warpgroups; by the last of them, of more rows than the others have time for.
void checkFisher(const std::vector<int>& counts) {
  if (counts.empty()) return;
  struct Shape {
    int m, n, sequences, tokens;
  };
  for (const Dtype dtype : {Dtype::bf16, Dtype::int8, Dtype::int4}) {
    for (const auto& [m, n, sequences, tokens] :
         {Shape{70, 150, 2, 45}, Shape{129, 33, 1, 100}, Shape{8, 8, 3, 5}, Shape{300, 520, 3, 20},
          // More tokens than there is room for in shared memory.
          Shape{130, 40, 2, 350},
          // So many tiles that each has all sequences.
          Shape{4100, 520, 2, 1}}) {
      const bool many = m > 1000;
      if (many && dtype != Dtype::bf16) continue;
      check::Random random(static_cast<uint64_t>(m * n));
      const Sample g({sequences, tokens}, m, random), x({sequences, tokens}, n, random);
      const flrc::RowMatrix w = flrc::makeRows(random.floats(int64_t{m} * n).data(), m, n, n, dtype);
      Array<uint8_t> data(packRows(dtype, m, w.stride, w.data.data(), w.scale.data(), w.zero.data()));
      Array<uint16_t> gs(g.bits), xs(x.bits);
      FisherParams params{
          {gs.read(), g.ld, m}, {xs.read(), x.ld, n}, {sequences, tokens}, data.read(), nullptr, nullptr};

      double expected[3] = {1, 2, 3};
      double errors[3] = {};
      std::vector<float> row(static_cast<size_t>(n));
      for (int s = 0; s < sequences; ++s) {
        for (int i = 0; i < m; ++i) {
          flrc::getRow(w, i, row.data());
          for (int j = 0; j < n; ++j) {
            double sum = 0, size = 0;
            for (int t = s * tokens; t < (s + 1) * tokens; ++t) {
              sum += g.value(t, i) * x.value(t, j);
              size += std::abs(g.value(t, i) * x.value(t, j));
            }
            const double weight = static_cast<double>(row[static_cast<size_t>(j)]),
                         error = (tokens + 8) * kUlp * size;
            expected[0] += sum * sum * weight * weight;
            expected[1] += sum * sum;
            expected[2] += std::abs(sum * weight);
            errors[0] += 2 * std::abs(sum) * weight * weight * error + 12 * kUlp * sum * sum * weight * weight;
            errors[1] += 2 * std::abs(sum) * error + 12 * kUlp * sum * sum;
            errors[2] += std::abs(weight) * error + 12 * kUlp * std::abs(sum * weight);
          }
        }
      }
      for (const int warpgroups : many ? std::vector<int>{counts.back()} : counts) {
        // At once, and some rows after others.
        for (const int rows : {m, 128}) {
          if (rows > m || (rows < m && many)) continue;
          Array<double> sums(std::vector<double>{1, 2, 3}),
              partial(static_cast<size_t>(fisherPartials(params)));
          params.sums = sums.global();
          params.partial = partial.global();
          Device device(1);
          for (int first = 0; first < m; first += rows) {
            launchFisher(device.stream(), dtype, rowsOf(dtype, params, first, std::min(rows, m - first)),
                         warpgroups);
          }
          device.synchronise();
          for (size_t i = 0; i < 3; ++i) CHECK_NEAR(sums.at(i), expected[i], errors[i] + 1e-12 * expected[i]);
        }
      }
    }
  }
}

}  // namespace

TEST("fisher: scores of every dtype, sequences apart, any shape") { checkFisher({0}); }

TEST("fisher by warpgroups: scores of every dtype, sequences apart, any shape") {
  checkFisher(test::warpgroupCounts());
}

TEST("fisher by warpgroups: a row of tiles has the bits it has alone, on any number of multiprocessors") {
  constexpr int kTileRows = 128, kRows = 300, kWidth = 520, kTileColumns = 3, kWarps = 8;
  constexpr Passage kPassage{2, 40};
  check::Random random(6);
  const Sample g(kPassage, kRows, random), x(kPassage, kWidth, random);
  const flrc::RowMatrix w =
      flrc::makeRows(random.floats(kRows * kWidth).data(), kRows, kWidth, kWidth, Dtype::bf16);
  Array<uint8_t> data(packRows(Dtype::bf16, kRows, w.stride, w.data.data(), w.scale.data(), w.zero.data()));
  Array<uint16_t> gs(g.bits), xs(x.bits);
  const auto partialOf = [&](int row, int rows, int blocks) {
    Array<double> sums(std::vector<double>(3));
    FisherParams params{{gs.read() + row, g.ld, rows},
                        {xs.read(), x.ld, kWidth},
                        kPassage,
                        data.read() + row * stripsOf(Dtype::bf16, kWidth) * kStripBytes,
                        nullptr,
                        sums.global()};
    Array<double> partial(static_cast<size_t>(fisherPartials(params)));
    params.partial = partial.global();
    Device device(static_cast<uint64_t>(blocks));
    launchFisher(device.stream(), Dtype::bf16, params, blocks);
    device.synchronise();
    std::vector<double> values = partial.download();
    values.resize(static_cast<size_t>((rows + kTileRows - 1) / kTileRows * kTileColumns * kPassage.sequences *
                                      kWarps * 3));
    return values;
  };
  for (const int blocks : test::warpgroupCounts()) {
    const std::vector<double> all = partialOf(0, kRows, blocks);
    constexpr int kTiles = 3;
    constexpr size_t kValues = kPassage.sequences * kWarps * 3;
    for (int tile = 0; tile < kTiles; ++tile) {
      const int row = tile * kTileRows;
      const std::vector<double> alone = partialOf(row, std::min(kTileRows, kRows - row), 2);
      for (size_t column = 0; column < kTileColumns; ++column) {
        for (size_t i = 0; i < kValues; ++i)
          CHECK(all[(column * kTiles + static_cast<size_t>(tile)) * kValues + i] ==
                alone[column * kValues + i]);
      }
    }
  }
}

namespace {

// The packed triangle of the sum of x x^T, in one half or two, added to what was there.
void checkMoments(const std::vector<int>& counts) {
  struct Case {
    int n;
    bool halves;
    int tokens;
  };
  // Of 420 tokens, and of 100 in halves, there are more boxes than there is room for in shared memory.
  for (const auto& [n, halves, tokens] : {Case{20, true, 40}, Case{150, false, 420}, Case{257, false, 40},
                                          Case{130, true, 100}, Case{520, true, 20}}) {
    const Passage passage{2, tokens};
    check::Random random(static_cast<uint64_t>(n));
    const Sample x(passage, n, random);
    Sample low = x;
    for (int t = 0; t < passage.sequences * passage.tokens; ++t) {
      for (int i = 0; i < n; ++i) {
        const double rest = x.value(t, i) * 0x1p-9 * std::sin(random.normal());
        low.bits[low.at(t, i)] = flrc::floatToBf16(static_cast<float>(rest));
      }
    }
    Array<uint16_t> xs(x.bits), lows(low.bits);
    std::vector<double> expected, errors;
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j <= i; ++j) {
        double sum = 0.5, size = 0;
        for (int t = 0; t < passage.sequences * passage.tokens; ++t) {
          const double one = x.value(t, i) + (halves ? low.value(t, i) : 0),
                       other = x.value(t, j) + (halves ? low.value(t, j) : 0);
          sum += one * other;
          size += std::abs(one * other);
        }
        expected.push_back(sum);
        errors.push_back((halves ? 4 : 1) * (passage.tokens + 8) * kUlp * size + 1e-15);
      }
    }
    for (const int warpgroups : counts) {
      Array<double> sum(std::vector<double>(expected.size(), 0.5));
      Device device(2);
      launchMoment(device.stream(),
                   {{xs.read(), x.ld, n}, halves ? lows.read() : nullptr, passage, sum.global()}, warpgroups);
      device.synchronise();
      const std::vector<double> got = sum.download();
      for (size_t i = 0; i < got.size(); ++i) CHECK_NEAR(got[i], expected[i], errors[i]);
    }
  }
}

}  // namespace

TEST("moments: the packed triangle of the sum of x x^T, in one half or two, added to what was there") {
  checkMoments({0});
}

TEST("moments by warpgroups: the packed triangle of the sum of x x^T, in one half or two") {
  checkMoments(test::warpgroupCounts());
}
