#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numbers>

#include "check.h"
#include "cpu/kernels.h"
#include "model/activation.h"

using namespace flrc;
using cpu::Kernels;

namespace {

constexpr double kEpsilon = 0x1p-24;
// Highway's Exp is good to one unit in the last place; this leaves room for the operations around it.
constexpr double kExpError = 4 * kEpsilon;

void forTargets(const std::function<void(const Kernels&)>& body) {
  const Kernels* targets[8];
  const int count = cpu::kernelTargets(targets, 8);
  for (int i = 0; i < count; ++i) body(*targets[i]);
}

void forLengths(const std::function<void(int64_t)>& body) {
  for (const int64_t n : {1, 3, 7, 8, 15, 16, 17, 33, 63, 64, 65, 130, 1000}) body(n);
}

// From -100 to 100, dense near 0.
std::vector<float> wideRange(check::Random& random, int64_t n) {
  std::vector<float> x = random.floats(n);
  for (size_t i = 0; i < x.size(); i += 3) x[i] *= 30;
  if (n > 2) {
    x[0] = 100;
    x[1] = -100;
  }
  return x;
}

// e^-88, below which no kernel's sigmoid gets.
constexpr double kLeastSigmoid = 6.1e-39;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

bool sameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST("rms norm: against fp64, in place too") {
  forTargets([](const Kernels& kernels) {
    forLengths([&](int64_t n) {
      check::Random random(1);
      std::vector<float> x = random.floats(n), weight = random.floats(n), y(x.size());
      double squares = 0;
      for (const float value : x) squares += static_cast<double>(value) * static_cast<double>(value);
      const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
      kernels.rmsNorm(x.data(), weight.data(), 1e-5f, n, y.data());
      for (size_t i = 0; i < x.size(); ++i) {
        const double expected = static_cast<double>(x[i]) * inverse * static_cast<double>(weight[i]);
        // The sum of n squares is off by n / 2 roundings a lane of 4 at most, the root halves that; a few more.
        CHECK_NEAR(y[i], expected, (static_cast<double>(n) / 4 + 8) * kEpsilon * std::abs(expected));
      }
      kernels.rmsNorm(x.data(), weight.data(), 1e-5f, n, x.data());
      CHECK(sameBits(x, y));
    });
  });
}

namespace {

// x sigmoid(power(x)), whose slope is sigmoid (1 + rise (1 - sigmoid)) with rise = x power'(x).
struct Gate {
  Activation activation;
  double linear, cubic;  // power = linear x + cubic x^3

  double power(double x) const { return x * (linear + cubic * x * x); }
  double rise(double x) const { return x * (linear + 3 * cubic * x * x); }
  double value(double x) const { return x * sigmoid(power(x)); }
  // By how much the exponential magnifies the roundings of its argument; from 90 on it changes nothing.
  double roundings(double x) const { return (cubic == 0 ? 1 : 6) * std::min(90.0, std::abs(power(x))); }
};

const Gate kGates[] = {{Activation::silu, 1, 0},
                       {Activation::geluTanh, 2 * std::sqrt(2 / std::numbers::pi),
                        2 * std::sqrt(2 / std::numbers::pi) * 0.044715}};

}  // namespace

TEST("gates: against fp64 over the whole range, in place too") {
  forTargets([](const Kernels& kernels) {
    forLengths([&](int64_t n) {
      for (const Gate& of : kGates) {
        const auto gatedTimes = kernels.gatedTimes[static_cast<size_t>(of.activation)];
        check::Random random(2);
        const std::vector<float> gate = wideRange(random, n), up = random.floats(n);
        std::vector<float> y(gate.size());
        gatedTimes(gate.data(), up.data(), n, y.data());
        for (size_t i = 0; i < y.size(); ++i) {
          const double g = static_cast<double>(gate[i]), expected = of.value(g) * static_cast<double>(up[i]);
          // What lies below 1e-36 may be flushed.
          CHECK_NEAR(y[i], expected, (kExpError + of.roundings(g) * kEpsilon) * std::abs(expected) + 1e-35);
        }
        std::vector<float> inGate = gate, inUp = up;
        gatedTimes(inGate.data(), up.data(), n, inGate.data());
        gatedTimes(gate.data(), inUp.data(), n, inUp.data());
        CHECK(sameBits(inGate, y) && sameBits(inUp, y));
      }
    });
  });
}

TEST("gates backward: against fp64 and finite differences, in place too") {
  forTargets([](const Kernels& kernels) {
    forLengths([&](int64_t n) {
      for (const Gate& of : kGates) {
        const auto backward = kernels.gatedTimesBackward[static_cast<size_t>(of.activation)];
        check::Random random(3);
        const std::vector<float> gate = wideRange(random, n), up = random.floats(n), dy = random.floats(n);
        std::vector<float> dGate(gate.size()), dUp(gate.size());
        backward(gate.data(), up.data(), dy.data(), n, dGate.data(), dUp.data());
        for (size_t i = 0; i < dGate.size(); ++i) {
          const double g = static_cast<double>(gate[i]), u = static_cast<double>(up[i]),
                       d = static_cast<double>(dy[i]);
          const double s = sigmoid(of.power(g)), rise = std::abs(of.rise(g)), rounds = of.roundings(g);
          // The sigmoid's own error, times a slope of at most 1 + |rise|, whose terms are rounded too.
          CHECK_NEAR(
              dGate[i], d * u * s * (1 + of.rise(g) * (1 - s)),
              (((4 + rounds) * (1 + rise) + 8) * kEpsilon * s + kLeastSigmoid * (1 + rise)) * std::abs(d * u) +
                  1e-35);
          CHECK_NEAR(dUp[i], d * of.value(g),
                     (kExpError + rounds * kEpsilon) * std::abs(d * of.value(g)) + 1e-35);
          const double h = 1e-5, difference = of.value(g + h) - of.value(g - h);
          CHECK_NEAR(dGate[i], d * u * difference / (2 * h), 1e-4 * (std::abs(d * u) + 1e-30));
        }
        std::vector<float> inGate = gate, inUp = up;
        backward(inGate.data(), inUp.data(), dy.data(), n, inGate.data(), inUp.data());
        CHECK(sameBits(inGate, dGate) && sameBits(inUp, dUp));
      }
    });
  });
}

TEST("add, axpy and gates: an element's result does not depend on its place") {
  forTargets([](const Kernels& kernels) {
    check::Random random(4);
    const int64_t n = 70;
    const std::vector<float> x = wideRange(random, n), y = random.floats(n);
    std::vector<float> sum = x, scaled = y;
    kernels.add(y.data(), n, sum.data());
    kernels.axpy(0.3f, x.data(), n, scaled.data());
    for (size_t i = 0; i < x.size(); ++i) {
      CHECK_EQUAL(sum[i], x[i] + y[i]);
      const double exact = static_cast<double>(0.3f) * static_cast<double>(x[i]) + static_cast<double>(y[i]);
      const double terms = std::abs(static_cast<double>(x[i])) + std::abs(static_cast<double>(y[i]));
      CHECK_NEAR(scaled[i], exact, 2 * kEpsilon * terms);
      float one = y[i];
      kernels.axpy(0.3f, &x[i], 1, &one);
      CHECK_EQUAL(one, scaled[i]);
    }
    for (const auto gatedTimes : kernels.gatedTimes) {
      std::vector<float> gated(x.size());
      gatedTimes(x.data(), y.data(), n, gated.data());
      for (size_t i = 0; i < x.size(); ++i) {
        float one = 0;
        gatedTimes(&x[i], &y[i], 1, &one);
        CHECK_EQUAL(one, gated[i]);
      }
    }
  });
}

TEST("softmax: against fp64, with the logarithm of the sum") {
  forTargets([](const Kernels& kernels) {
    forLengths([&](int64_t n) {
      for (const float scale : {1.0f, 0.125f, -2.0f}) {
        check::Random random(5);
        std::vector<float> x = wideRange(random, n);
        std::vector<double> scaled(x.size());
        // The kernel rounds the scaled value once; e^x magnifies that rounding by |x|.
        for (size_t i = 0; i < x.size(); ++i) scaled[i] = static_cast<double>(x[i] * scale);
        const double most = *std::max_element(scaled.begin(), scaled.end());
        double sum = 0, size = 0;
        for (const double value : scaled) {
          sum += std::exp(value - most);
          size = std::max(size, std::abs(value - most));
        }
        const double log = kernels.softmax(x.data(), n, scale);
        CHECK_NEAR(log, most + std::log(sum),
                   4 * kEpsilon * (std::abs(most) + std::log(sum) + 1) + static_cast<double>(n) * kEpsilon);
        for (size_t i = 0; i < x.size(); ++i) {
          const double expected = std::exp(scaled[i] - most) / sum;
          CHECK_NEAR(x[i], expected, (static_cast<double>(n) / 4 + 8 + size) * kEpsilon * expected + 1e-37);
        }
      }
    });
  });
}

TEST("softmax: masked scores get nothing, large ones do not overflow, NaN is not hidden") {
  forTargets([](const Kernels& kernels) {
    const float infinity = std::numeric_limits<float>::infinity();
    std::vector<float> x = {1e30f, -infinity, 1e30f, -1e30f, -infinity};
    kernels.softmax(x.data(), 5, 1.0f);
    CHECK(sameBits(x, {0.5f, 0.0f, 0.5f, 0.0f, 0.0f}));
    for (const size_t place : {0, 2, 20}) {
      std::vector<float> broken(21, 0.5f);
      broken[place] = std::numeric_limits<float>::quiet_NaN();
      CHECK(std::isnan(kernels.softmax(broken.data(), 21, 1.0f)));
      CHECK(std::isnan(broken[place]));
    }
  });
}

TEST("dot: against fp64") {
  forTargets([](const Kernels& kernels) {
    forLengths([&](int64_t n) {
      check::Random random(6);
      const std::vector<float> x = random.floats(n), y = random.floats(n);
      double sum = 0, terms = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        sum += static_cast<double>(x[i]) * static_cast<double>(y[i]);
        terms += std::abs(static_cast<double>(x[i]) * static_cast<double>(y[i]));
      }
      // n / 4 products a lane at most, two roundings each, and the lanes are added up.
      CHECK_NEAR(kernels.dot(x.data(), y.data(), n), sum, (static_cast<double>(n) / 2 + 8) * kEpsilon * terms);
    });
  });
}

TEST("fisher sums: fp64 accumulation on top of what is there") {
  forTargets([](const Kernels& kernels) {
    forLengths([&](int64_t n) {
      check::Random random(7);
      const std::vector<float> g = random.floats(n), w = random.floats(n);
      double sums[3] = {1, 2, 3}, expected[3] = {1, 2, 3};
      for (size_t i = 0; i < g.size(); ++i) {
        const double gradient = static_cast<double>(g[i]), product = gradient * static_cast<double>(w[i]);
        expected[0] += product * product;
        expected[1] += gradient * gradient;
        expected[2] += std::abs(product);
      }
      kernels.fisherReduce(g.data(), w.data(), n, sums);
      for (int i = 0; i < 3; ++i) {
        CHECK_NEAR(sums[i], expected[i], static_cast<double>(2 * n + 8) * 0x1p-53 * expected[i]);
      }
    });
  });
}
