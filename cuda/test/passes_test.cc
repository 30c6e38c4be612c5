// kernels/passes.h against fp64, and rows alone against rows among others.

#include "kernels/passes.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "check.h"
#include "linalg/clipping.h"
#include "test/device.h"

using namespace flrc::gpu;
using flrc::Activation;
using test::Array;
using test::Device;

namespace {

constexpr double kUlp = 0x1p-24;
constexpr float kEps = 1e-5f;

std::vector<float> slice(const std::vector<float>& all, int64_t first, int64_t count) {
  return {all.begin() + first, all.begin() + first + count};
}

// What goes back through a norm of one row, and what its errors are relative to.
struct Reference {
  std::vector<double> dx, size;
};
Reference normBackward(const float* x, const float* weight, const std::vector<double>& dy) {
  const size_t n = dy.size();
  double squares = 0, along = 0, alongSize = 0;
  for (size_t i = 0; i < n; ++i) {
    const double value = static_cast<double>(x[i]), term = dy[i] * static_cast<double>(weight[i]) * value;
    squares += value * value;
    along += term;
    alongSize += std::abs(term);
  }
  const double mean = squares / static_cast<double>(n) + static_cast<double>(kEps),
               share = 1 / mean / static_cast<double>(n);
  Reference reference;
  for (size_t i = 0; i < n; ++i) {
    const double weighted = dy[i] * static_cast<double>(weight[i]), value = static_cast<double>(x[i]);
    reference.dx.push_back((weighted - along * share * value) / std::sqrt(mean));
    reference.size.push_back((std::abs(weighted) + alongSize * share * std::abs(value)) / std::sqrt(mean));
  }
  return reference;
}

std::vector<double> widened(const float* from, int count) { return {from, from + count}; }

}  // namespace

TEST("passes: back through a norm") {
  for (const int width : {7, 64, 1000, 2050, 8000, 8200}) {
    for (const bool adds : {false, true}) {
      constexpr int kRows = 3;
      check::Random random(static_cast<uint64_t>(width));
      const std::vector<float> x = random.floats(kRows * width), dy = random.floats(kRows * width),
                               weight = random.floats(width), before = random.floats(kRows * width);
      Array<float> xs(x), scale(weight), dys(dy), dx(adds ? before : dy);
      Device device(1);
      const NormBackwardParams params{
          xs.read(), adds ? dys.read() : dx.global(), scale.read(), dx.global(), kEps, width, adds};
      launchNormBackward(device.stream(), params, kRows);
      device.synchronise();
      const std::vector<float> got = dx.download();
      for (int r = 0; r < kRows; ++r) {
        const int64_t row = int64_t{r} * width;
        const Reference reference =
            normBackward(x.data() + row, weight.data(), widened(dy.data() + row, width));
        for (int i = 0; i < width; ++i) {
          const auto at = static_cast<size_t>(i);
          const double old = adds ? static_cast<double>(before[static_cast<size_t>(row + i)]) : 0;
          CHECK_NEAR(got[static_cast<size_t>(row + i)], old + reference.dx[at],
                     (width / 256.0 + 48) * kUlp * (reference.size[at] + std::abs(old)));
        }
        Array<float> x1(slice(x, row, width)), dy1(slice(dy, row, width)), dx1(slice(before, row, width));
        launchNormBackward(device.stream(),
                           {x1.read(), dy1.read(), scale.read(), dx1.global(), kEps, width, adds}, 1);
        device.synchronise();
        CHECK(dx1.download() == slice(got, row, width));
      }
    }
  }
}

TEST("passes: factors that clip gradients, as the CPU's, in their own place") {
  for (const int tokens : {1, 5, 256, 700}) {
    check::Random random(static_cast<uint64_t>(tokens));
    std::vector<float> squares(static_cast<size_t>(tokens));
    std::vector<double> norms;
    for (float& square : squares) {
      // From far below what is rounding to far above what is clipped.
      square = std::exp2(static_cast<float>(random.below(60)) - 50);
      norms.push_back(std::sqrt(static_cast<double>(square)));
    }
    Array<float> factors(squares);
    Device device(3);
    launchClipFactors(device.stream(), {factors.read(), factors.global(), tokens});
    device.synchronise();
    const std::vector<float> got = factors.download(), expected = flrc::clipFactors(norms);
    for (size_t t = 0; t < got.size(); ++t) {
      // The mean is added up in another order.
      CHECK_NEAR(static_cast<double>(got[t]), static_cast<double>(expected[t]),
                 (0x1p-24 + (tokens + 4) * 0x1p-53) * static_cast<double>(expected[t]));
    }
  }
}

TEST("passes: squares of columns, of any width and number of tokens, with factors and without") {
  for (const int width : {1, 100, 256, 300}) {
    for (const int tokens : {1, 37}) {
      for (const bool scaled : {false, true}) {
        check::Random random(static_cast<uint64_t>(width + tokens));
        const std::vector<float> x = random.floats(tokens * width), factors = random.floats(tokens);
        Array<float> xs(x), scales(factors);
        Array<double> sums(static_cast<size_t>(width));
        Device device(2);
        launchColumnSquares(device.stream(),
                            {xs.read(), scaled ? scales.read() : nullptr, sums.global(), tokens, width});
        device.synchronise();
        const std::vector<double> got = sums.download();
        for (int i = 0; i < width; ++i) {
          double sum = 0;
          for (int t = 0; t < tokens; ++t) {
            const double factor = scaled ? static_cast<double>(factors[static_cast<size_t>(t)]) : 1.0;
            sum += std::pow(factor * static_cast<double>(x[static_cast<size_t>(t * width + i)]), 2);
          }
          // Two roundings a product and one for what it is added to.
          CHECK_NEAR(got[static_cast<size_t>(i)], sum, 4 * tokens * 0x1p-53 * sum);
        }
      }
    }
  }
}

TEST("passes: heads normed and turned, and back") {
  struct Shape {
    int tokens, heads, headDim, pairs;
    bool norms;
  };
  for (const auto& [tokens, heads, headDim, pairs, norms] :
       {Shape{1, 1, 8, 4, true}, Shape{17, 3, 64, 32, false}, Shape{5, 2, 80, 40, true},
        Shape{9, 5, 256, 128, true}, Shape{3, 2, 64, 4, true}, Shape{4, 1, 256, 96, false}}) {
    const int count = tokens * heads * headDim;
    constexpr float kScale = 1.25f;
    const double by = static_cast<double>(kScale);
    check::Random random(static_cast<uint64_t>(count));
    const std::vector<float> x = random.floats(count), dy = random.floats(count), norm = random.floats(headDim),
                             cosine = random.floats(tokens * pairs), sine = random.floats(tokens * pairs);
    Array<float> xs(x), y(x), weight(norm), cosines(cosine), sines(sine), dx(dy), none(size_t{8});
    Device device(2);
    TurnParams params{xs.read(), y.global(),     norms ? weight.read() : nullptr,
                      kEps,      cosines.read(), sines.read(),
                      tokens,    heads,          headDim,
                      pairs,     kScale};
    launchTurn(device.stream(), params);
    // Without a norm what was turned is not needed.
    params.x = norms ? xs.read() : none.read();
    launchTurnBackward(device.stream(), {params, dx.global(), dx.global()});
    // In place.
    Array<float> inPlace(x);
    params.x = inPlace.global();
    params.y = inPlace.global();
    launchTurn(device.stream(), params);
    device.synchronise();
    const std::vector<float> got = y.download(), back = dx.download();
    CHECK(inPlace.download() == got);
    const double tolerance = (headDim / 32 + 40) * kUlp;
    for (int t = 0; t < tokens; ++t) {
      for (int h = 0; h < heads; ++h) {
        const auto first = static_cast<size_t>((t * heads + h) * headDim);
        double squares = 0;
        for (size_t i = 0; i < static_cast<size_t>(headDim); ++i) {
          squares += static_cast<double>(x[first + i]) * static_cast<double>(x[first + i]);
        }
        const double scale = norms ? 1 / std::sqrt(squares / headDim + static_cast<double>(kEps)) : 1;
        const auto normed = [&](size_t i) {
          return static_cast<double>(x[first + i]) * scale * (norms ? static_cast<double>(norm[i]) : 1);
        };
        std::vector<double> turnedBack(static_cast<size_t>(headDim)), sizes(static_cast<size_t>(headDim));
        for (size_t i = 0; i < static_cast<size_t>(pairs); ++i) {
          const size_t angle = static_cast<size_t>(t * pairs) + i, other = i + static_cast<size_t>(pairs);
          const double c = static_cast<double>(cosine[angle]), s = static_cast<double>(sine[angle]);
          const double a = normed(i), b = normed(other);
          const double size =
              std::abs(a) * (std::abs(c) + std::abs(s)) + std::abs(b) * (std::abs(c) + std::abs(s));
          CHECK_NEAR(got[first + i], by * (a * c - b * s), tolerance * by * size);
          CHECK_NEAR(got[first + other], by * (b * c + a * s), tolerance * by * size);
          const double da = by * static_cast<double>(dy[first + i]),
                       db = by * static_cast<double>(dy[first + other]);
          turnedBack[i] = da * c + db * s;
          turnedBack[other] = db * c - da * s;
          sizes[i] = std::abs(da * c) + std::abs(db * s);
          sizes[other] = std::abs(db * c) + std::abs(da * s);
        }
        for (size_t i = 2 * static_cast<size_t>(pairs); i < static_cast<size_t>(headDim); ++i) {
          CHECK_NEAR(got[first + i], by * normed(i), tolerance * by * std::abs(normed(i)));
          turnedBack[i] = by * static_cast<double>(dy[first + i]);
          sizes[i] = std::abs(turnedBack[i]);
        }
        if (!norms) {
          for (size_t i = 0; i < turnedBack.size(); ++i) {
            CHECK_NEAR(back[first + i], turnedBack[i], tolerance * sizes[i]);
          }
          continue;
        }
        const Reference reference = normBackward(x.data() + first, norm.data(), turnedBack),
                        size = normBackward(x.data() + first, norm.data(), sizes);
        for (size_t i = 0; i < turnedBack.size(); ++i) {
          CHECK_NEAR(back[first + i], reference.dx[i], tolerance * size.size[i]);
        }
      }
    }
  }
}

TEST("passes: back through activation(gate) * up, in place") {
  constexpr int kCount = 1027;
  for (const Activation activation : {Activation::silu, Activation::geluTanh}) {
    const bool silu = activation == Activation::silu;
    check::Random random(3);
    std::vector<float> gate = random.floats(kCount), up = random.floats(kCount), dy = random.floats(kCount);
    gate[0] = 100;
    gate[1] = -100;
    Array<float> g(gate), u(up), d(dy);
    Device device(3);
    launchGatedBackward(device.stream(),
                        {g.global(), u.global(), d.read(), g.global(), u.global(), kCount, activation});
    device.synchronise();
    const double linear = silu ? 1 : 2 * std::sqrt(2 / std::numbers::pi), cubic = silu ? 0 : 0.044715 * linear;
    for (size_t i = 0; i < kCount; ++i) {
      const double x = static_cast<double>(gate[i]), y = static_cast<double>(dy[i]);
      const double power = x * (linear + cubic * x * x), rise = x * (linear + 3 * cubic * x * x);
      const double sigmoid = 1 / (1 + std::exp(-power)), slope = 1 + rise * (1 - sigmoid);
      const double dGate = y * static_cast<double>(up[i]) * sigmoid, dUp = y * x * sigmoid;
      const double roundings = silu ? 16 : 16 + 6 * std::min(90.0, std::abs(power));
      CHECK_NEAR(g.at(i), dGate * slope, roundings * kUlp * std::abs(dGate) * (1 + std::abs(rise)) + 1e-37);
      CHECK_NEAR(u.at(i), dUp, roundings * kUlp * std::abs(dUp) + 1e-37);
    }
  }
}

TEST("passes: rows and biases are added, rows scaled") {
  for (const int width : {1, 7, 12, 260}) {
    constexpr int kRows = 5;
    constexpr float kScale = 0.3f;
    check::Random random(static_cast<uint64_t>(width));
    const std::vector<float> x = random.floats(kRows * width), rows = random.floats(kRows * width),
                             bias = random.floats(width);
    Array<float> sums(x), biased(x), joined(x), scaled(x.size()), add(rows), all(bias);
    Device device(4);
    launchAdd(device.stream(), {sums.global(), add.read(), kRows, width, false});
    launchAdd(device.stream(), {biased.global(), all.read(), kRows, width, true});
    launchScale(device.stream(), {add.read(), scaled.global(), kScale, kRows * width});
    launchAdd(device.stream(), {joined.global(), add.read(), kRows, width, false, kScale});
    device.synchronise();
    for (size_t i = 0; i < x.size(); ++i) {
      CHECK_EQUAL(sums.at(i), x[i] + rows[i]);
      CHECK_EQUAL(scaled.at(i), kScale * rows[i]);
      const double product = static_cast<double>(kScale) * static_cast<double>(x[i]);
      CHECK_NEAR(joined.at(i), product + static_cast<double>(rows[i]),
                 2 * kUlp * (std::abs(product) + std::abs(static_cast<double>(rows[i]))));
      CHECK_EQUAL(biased.at(i), x[i] + bias[i % static_cast<size_t>(width)]);
    }
  }
}
