// kernels/calibrate.h against fp64: thin products and truncation curves.

#include <cmath>
#include <numeric>

#include "check.h"
#include "kernels/calibrate.h"
#include "kernels/layout.h"
#include "tensor/matrix.h"
#include "test/device.h"

using namespace flrc::gpu;
using flrc::Dtype;
using test::Array;
using test::Device;

namespace {

constexpr double kUlp = 0x1p-24;

}  // namespace

TEST("curves: thin products to f32's precision but for the halves' own, and the suffix scan") {
  struct Shape {
    int width, rank;
    bool whole;
  };
  for (const auto& [width, rank, whole] : {Shape{90, 40, true}, Shape{200, 300, false}, Shape{33, 1, true}}) {
    constexpr int kTokens = 70;
    check::Random random(static_cast<uint64_t>(rank));
    const int64_t ld = (width + 7) / 8 * 8;
    const std::vector<float> x = random.floats(int64_t{kTokens} * width),
                             factors = random.floats(int64_t{rank} * width),
                             other = random.floats(kTokens * rank), all = random.floats(kTokens);
    const auto halves = static_cast<size_t>(rank * ld), xHalves = static_cast<size_t>(kTokens * ld);
    Array<uint16_t> high(halves), low(halves), xHigh(xHalves), xLow(xHalves), rounded(xHalves);
    Array<float> f(factors), xs(x), product(static_cast<size_t>(kTokens * rank)), u(other), wholes(all);
    Array<double> partial(static_cast<size_t>(kCurveBlocks * (rank + 1))),
        curve(std::vector<double>(static_cast<size_t>(rank + 1), 0.25));
    Device device(4);
    launchSplit(device.stream(), {f.read(), rank, width, ld, high.global(), low.global()});
    launchSplit(device.stream(), {xs.read(), kTokens, width, ld, xHigh.global(), xLow.global()});
    launchSplit(device.stream(), {xs.read(), kTokens, width, ld, rounded.global(), nullptr});
    launchThinProduct(device.stream(),
                      {{xHigh.global(), ld, width},
                       xLow.global(),
                       kTokens,
                       high.global(),
                       low.global(),
                       ld,
                       rank,
                       product.global(),
                       rank},
                      0);
    launchCurve(device.stream(), {u.read(), product.read(), whole ? wholes.read() : nullptr, kTokens, rank,
                                  partial.global(), curve.global()});
    device.synchronise();
    CHECK(rounded.download() == xHigh.download());

    std::vector<double> expected(static_cast<size_t>(rank + 1), 0.25);
    const std::vector<float> v = product.download();
    for (int t = 0; t < kTokens; ++t) {
      std::vector<double> c;
      for (int j = 0; j < rank; ++j) {
        double sum = 0, size = 0;
        for (int i = 0; i < width; ++i) {
          const double term = static_cast<double>(x[static_cast<size_t>(t * width + i)]) *
                              static_cast<double>(factors[static_cast<size_t>(j * width + i)]);
          sum += term;
          size += std::abs(term);
        }
        const auto at = static_cast<size_t>(t * rank + j);
        CHECK_NEAR(v[at], sum, (3 * 0x1p-18 + 3 * (width + 8) * kUlp) * size);
        c.push_back(static_cast<double>(other[at]) * static_cast<double>(v[at]));
      }
      double cut =
          whole ? static_cast<double>(all[static_cast<size_t>(t)]) - std::accumulate(c.begin(), c.end(), 0.0)
                : 0;
      for (int r = rank; r >= 0; --r) {
        expected[static_cast<size_t>(r)] += 0.5 * cut * cut;
        if (r > 0) cut += c[static_cast<size_t>(r - 1)];
      }
    }
    const std::vector<double> got = curve.download();
    for (size_t r = 0; r < expected.size(); ++r) CHECK_NEAR(got[r], expected[r], 1e-10 * expected.front());
  }
}

TEST("thin products: back through weights of every dtype, exactly widened, added to what is there") {
  struct Shape {
    int tokens, m, n;
  };
  for (const Dtype dtype : {Dtype::bf16, Dtype::int8, Dtype::int4}) {
    for (const auto& [tokens, m, n] : {Shape{70, 90, 150}, Shape{130, 200, 33}, Shape{1, 7, 5}}) {
      // Between others' rows and columns.
      const int first = m / 3, rows = m - first - 1, outLd = n + 3;
      check::Random random(static_cast<uint64_t>(m));
      const flrc::RowMatrix w = flrc::makeRows(random.floats(int64_t{m} * n).data(), m, n, n, dtype);
      std::vector<float> wide(static_cast<size_t>(m * n));
      for (int r = 0; r < m; ++r) flrc::getRow(w, r, wide.data() + static_cast<size_t>(r * n));
      const std::vector<float> g = random.floats(int64_t{tokens} * rows),
                               before = random.floats(int64_t{tokens} * outLd);
      const int64_t ld = wholeOctets(n), gLd = wholeOctets(rows);
      const auto values = static_cast<size_t>(rows * ld), gValues = static_cast<size_t>(tokens * gLd);
      Array<uint8_t> data(packRows(dtype, m, w.stride, w.data.data(), w.scale.data(), w.zero.data()));
      Array<uint16_t> high(values), low(values), gHigh(gValues), gLow(gValues);
      Array<float> gs(g), out(before);
      Device device(6);
      launchWiden(device.stream(), dtype, {data.read(), first, rows, n, ld, high.global(), low.global()});
      launchSplit(device.stream(), {gs.read(), tokens, rows, gLd, gHigh.global(), gLow.global()});
      launchThinProduct(device.stream(),
                        {{gHigh.read(), gLd, rows},
                         gLow.read(),
                         tokens,
                         high.read(),
                         low.read(),
                         ld,
                         n,
                         out.global(),
                         outLd,
                         true,
                         true},
                        0);
      device.synchronise();

      const std::vector<uint16_t> highs = high.download(), lows = low.download();
      for (int r = 0; r < rows; ++r) {
        for (int i = 0; i < ld; ++i) {
          const auto at = static_cast<size_t>(r * ld + i);
          const float sum = flrc::bf16ToFloat(highs[at]) + flrc::bf16ToFloat(lows[at]);
          CHECK_EQUAL(sum, i < n ? wide[static_cast<size_t>((first + r) * n + i)] : 0.0f);
        }
      }
      const std::vector<float> got = out.download();
      for (int t = 0; t < tokens; ++t) {
        for (int j = 0; j < outLd; ++j) {
          const auto at = static_cast<size_t>(t * outLd + j);
          double sum = static_cast<double>(before[at]), size = 0;
          for (int r = 0; j < n && r < rows; ++r) {
            const double term = static_cast<double>(g[static_cast<size_t>(t * rows + r)]) *
                                static_cast<double>(wide[static_cast<size_t>((first + r) * n + j)]);
            sum += term;
            size += std::abs(term);
          }
          CHECK_NEAR(static_cast<double>(got[at]), sum,
                     (3 * 0x1p-18 + 3 * (rows + 8) * kUlp) * size + 2 * kUlp * std::abs(sum));
        }
      }
    }
  }
}

TEST("thin products by warpgroups: what warps make, forward and back, of any shape and halves") {
  struct Shape {
    int tokens, depth, rows;
    bool xHalves, halves, adds;
  };
  for (const auto& [tokens, depth, rows, xHalves, halves, adds] :
       {Shape{1, 5, 3, true, true, false}, Shape{70, 90, 150, true, false, true},
        Shape{130, 333, 33, false, false, false}, Shape{300, 70, 270, true, true, true},
        // More tiles than blocks, and a row of tiles that has no second one.
        Shape{257, 24, 1030, false, true, false}}) {
    for (const bool back : {false, true}) {
      check::Random random(static_cast<uint64_t>(tokens + rows));
      const auto width = static_cast<size_t>(wholeOctets(back ? rows : depth)),
                 ld = static_cast<size_t>(wholeOctets(depth));
      const size_t lines = static_cast<size_t>(back ? depth : rows);
      const auto halvesOf = [&](size_t count) {
        std::vector<uint16_t> bits;
        for (const float value : random.floats(static_cast<int64_t>(count)))
          bits.push_back(flrc::floatToBf16(value));
        return bits;
      };
      // As much less as halves have it, but not so little that it could be left out unnoticed.
      Array<uint16_t> x(halvesOf(static_cast<size_t>(tokens) * ld)),
          xLow(halvesOf(static_cast<size_t>(tokens) * ld)), high(halvesOf(lines * width)),
          low(halvesOf(lines * width));
      const int outLd = rows + (depth % 2 == 0 ? rows % 2 : 3);
      const std::vector<float> before = random.floats(int64_t{tokens} * outLd);
      const auto made = [&](int warpgroups) {
        Array<float> out(before);
        Device device(7);
        launchThinProduct(device.stream(),
                          {{x.read(), static_cast<int64_t>(ld), depth},
                           xHalves ? xLow.read() : nullptr,
                           tokens,
                           high.read(),
                           halves ? low.read() : nullptr,
                           static_cast<int64_t>(width),
                           rows,
                           out.global(),
                           outLd,
                           back,
                           adds},
                          warpgroups);
        device.synchronise();
        return out.download();
      };
      const std::vector<float> expected = made(0);
      for (const int warpgroups : test::warpgroupCounts()) {
        const std::vector<float> got = made(warpgroups);
        const double tolerance = 2 * (3 * depth + 8) * kUlp * 3 * depth;
        for (size_t i = 0; i < got.size(); ++i) CHECK_NEAR(got[i], expected[i], tolerance);
      }
    }
  }
}

TEST("curves: the whole products g . y") {
  constexpr int kTokens = 19, kWidth = 77;
  check::Random random(5);
  const std::vector<float> g = random.floats(kTokens * kWidth), y = random.floats(kTokens * kWidth);
  Array<float> gs(g), ys(y), out(size_t{kTokens});
  Device device(5);
  launchDots(device.stream(), {gs.read(), ys.read(), kTokens, kWidth, out.global()});
  device.synchronise();
  for (int t = 0; t < kTokens; ++t) {
    double sum = 0, size = 0;
    for (int i = 0; i < kWidth; ++i) {
      const auto at = static_cast<size_t>(t * kWidth + i);
      const double term = static_cast<double>(g[at]) * static_cast<double>(y[at]);
      sum += term;
      size += std::abs(term);
    }
    CHECK_NEAR(out.at(static_cast<size_t>(t)), sum, 12 * kUlp * size);
  }
}
