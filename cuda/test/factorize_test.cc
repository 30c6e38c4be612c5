// kernels/products.h, kernels/bases.h and kernels/eigen.h: bases and eigenvectors against what defines them,
// and products against plain loops.

#include <cmath>
#include <numbers>

#include "check.h"
#include "core/random.h"
#include "kernels/eigen.h"
#include "kernels/eigen_blocks.h"
#include "kernels/products.h"
#include "test/device.h"
#include "test/matrices.h"

using namespace flrc::gpu;
using test::Array;
using test::Device;
using test::norm;
using test::randoms;
using test::rowProduct;
using test::View;
using test::view;

namespace {

constexpr double kEpsilon = 0x1p-53;

void checkOrthonormal(const View& q) {
  for (int i = 0; i < q.rows; ++i) {
    for (int j = 0; j <= i; ++j) CHECK_NEAR(rowProduct(q, i, q, j), i == j ? 1 : 0, 8 * q.cols * kEpsilon);
  }
}

// Working memory for bases.
struct Bases {
  Array<double> gram, lower, lengths;
  Bases(int rows, int batch)
      : gram(static_cast<size_t>(batch * rows * rows)),
        lower(gram.download().size()),
        lengths(static_cast<size_t>(batch * kRowLengths * rows)) {}
  OrthonormaliseParams of(Array<double>& q, int rows, int width) {
    return {q.global(), rows, width, gram.global(), lower.global(), lengths.global()};
  }
};

// Eigenvectors of a batch by sketches: its memory, and what is in it afterwards.
struct Sketches {
  Array<double> matrix, q, image, small, rows, basis, lengths, shift, values, vectors;
  Array<uint64_t> seeds;
  Array<uint32_t> busy;

  Sketches(const std::vector<double>& matrices, int n, int sketch, const std::vector<uint64_t>& seedOfEach)
      : Sketches(matrices, static_cast<size_t>(n), static_cast<size_t>(sketch), seedOfEach, seedOfEach.size()) {
    Device device(seedOfEach.front());
    launchSketchedEigen(
        device.stream(),
        {matrix.read(), n, sketch, 4, seeds.read(), q.global(), image.global(), small.global(), rows.global(),
         basis.global(), lengths.global(), busy.global(), shift.global(), values.global(), vectors.global()},
        static_cast<int>(seedOfEach.size()));
    device.synchronise();
  }

 private:
  Sketches(const std::vector<double>& matrices, size_t n, size_t k, const std::vector<uint64_t>& seedOfEach,
           size_t batch)
      : matrix(matrices),
        q(batch * k * n),
        image(batch * k * n),
        small(batch * k * k),
        rows(batch * k * k),
        basis(batch * k * k),
        lengths(batch * kRowLengths * k),
        shift(batch),
        values(batch * k),
        vectors(batch * k * n),
        seeds(seedOfEach),
        busy(batch * kEigenSweeps) {}
};

// Q^T diag(values) Q by a random orthonormal Q; symmetric to the bit.
std::vector<double> symmetricOf(check::Random& random, const std::vector<double>& values) {
  const auto n = static_cast<int>(values.size());
  std::vector<double> q = randoms(random, int64_t{n} * n), a(q.size());
  for (int i = 0; i < n; ++i) {
    for (int pass = 0; pass < 2; ++pass) {
      for (int j = 0; j < i; ++j) {
        const double dot = rowProduct(view(q, 0, n, n), i, view(q, 0, n, n), j);
        for (int k = 0; k < n; ++k)
          q[static_cast<size_t>(i * n + k)] -= dot * q[static_cast<size_t>(j * n + k)];
      }
    }
    const double length = std::sqrt(rowProduct(view(q, 0, n, n), i, view(q, 0, n, n), i));
    for (int k = 0; k < n; ++k) q[static_cast<size_t>(i * n + k)] /= length;
  }
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j <= i; ++j) {
      double sum = 0;
      for (int k = 0; k < n; ++k) {
        sum += q[static_cast<size_t>(k * n + i)] * values[static_cast<size_t>(k)] *
               q[static_cast<size_t>(k * n + j)];
      }
      a[static_cast<size_t>(i * n + j)] = a[static_cast<size_t>(j * n + i)] = sum;
    }
  }
  return a;
}

}  // namespace

TEST("factorize: Gaussian values are those of the CPU") {
  constexpr int kCount = 701;
  const std::vector<uint64_t> seeds = {3, 99};
  Array<uint64_t> seed(seeds);
  Array<double> out(size_t{2 * kCount});
  Device device(1);
  launchGaussian(device.stream(), {out.global(), kCount, seed.read()}, 2);
  device.synchronise();
  for (size_t b = 0; b < 2; ++b) {
    for (uint64_t i = 0; i < kCount; ++i) {
      const uint64_t even = i / 2 * 2;
      const double radius = std::sqrt(-2 * std::log(1 - flrc::randomUniform(seeds[b], even)));
      const double angle = 2 * std::numbers::pi * flrc::randomUniform(seeds[b], even + 1);
      CHECK_NEAR(out.at(b * kCount + i), radius * (i % 2 ? std::sin(angle) : std::cos(angle)), 1e-14);
    }
  }
}

TEST("factorize: products of any shape, of b and of b transposed") {
  struct Shape {
    int m, n, k;
  };
  for (const auto& [m, n, k] : {Shape{70, 5, 33}, Shape{1, 130, 64}, Shape{65, 64, 1}, Shape{50, 98, 70}}) {
    for (const bool transposed : {false, true}) {
      check::Random random(static_cast<uint64_t>(m));
      const std::vector<double> a = randoms(random, 2 * m * k), b = randoms(random, 2 * n * k);
      Array<double> left(a), right(b), out(static_cast<size_t>(2 * m * n));
      Device device(2);
      launchProduct(device.stream(), {left.read(), right.read(), out.global(), m, n, k, transposed}, 2);
      device.synchronise();
      const std::vector<double> c = out.download();
      for (int matrix = 0; matrix < 2; ++matrix) {
        const View x = view(a, matrix, m, k), y = transposed ? view(b, matrix, n, k) : view(b, matrix, k, n);
        for (int i = 0; i < m; ++i) {
          for (int j = 0; j < n; ++j) {
            double sum = 0, size = 0;
            for (int l = 0; l < k; ++l) {
              const double term = x.at(i, l) * (transposed ? y.at(j, l) : y.at(l, j));
              sum += term;
              size += std::abs(term);
            }
            CHECK_NEAR(view(c, matrix, m, n).at(i, j), sum, 2 * k * kEpsilon * size);
          }
        }
      }
    }
  }
}

TEST("factorize: an orthonormal basis of rows, nearly dependent ones among them") {
  struct Shape {
    int rows, width;
  };
  for (const auto& [rows, width] : {Shape{1, 40}, Shape{9, 70}, Shape{30, 30}, Shape{18, 300}}) {
    check::Random random(static_cast<uint64_t>(width));
    std::vector<double> y = randoms(random, 2 * rows * width);
    // The second matrix: rows that differ by 1e-9 from the one before.
    for (int i = rows + 1; i < 2 * rows; ++i) {
      for (int j = 0; j < width; ++j) {
        double& value = y[static_cast<size_t>(i * width + j)];
        value = y[static_cast<size_t>((i - 1) * width + j)] + 1e-9 * value;
      }
    }
    Array<double> q(y);
    Bases space(rows, 2);
    Device device(3);
    launchOrthonormalise(device.stream(), space.of(q, rows, width), 2);
    device.synchronise();
    const std::vector<double> got = q.download();
    for (int matrix = 0; matrix < 2; ++matrix) {
      const View basis = view(got, matrix, rows, width), before = view(y, matrix, rows, width);
      checkOrthonormal(basis);
      for (int i = 0; i < rows; ++i) {
        // Row i is made of the first i + 1 rows of the basis.
        std::vector<double> rest(before.data + i * width, before.data + (i + 1) * width);
        for (int j = 0; j <= i; ++j) {
          const double part = rowProduct(before, i, basis, j);
          for (int k = 0; k < width; ++k) rest[static_cast<size_t>(k)] -= part * basis.at(j, k);
        }
        CHECK_AT_MOST(norm({rest.data(), 1, width}),
                      4 * width * kEpsilon * norm({before.data + i * width, 1, width}));
      }
    }
  }
}

TEST("factorize: a row that depends on those before it becomes zeros") {
  check::Random random(4);
  std::vector<double> y = randoms(random, 3 * 50);
  for (size_t j = 0; j < 50; ++j) y[100 + j] = 2 * y[j] - y[50 + j];
  Array<double> q(y);
  Bases space(3, 1);
  Device device(4);
  launchOrthonormalise(device.stream(), space.of(q, 3, 50), 1);
  device.synchronise();
  const std::vector<double> got = q.download();
  checkOrthonormal({got.data(), 2, 50});
  CHECK_EQUAL(norm({got.data() + 100, 1, 50}), 0.0);
}

TEST("factorize: a Cholesky factor, of a matrix with dependent and with empty rows too") {
  for (const int n : {1, 31, 75, 130}) {
    check::Random random(static_cast<uint64_t>(n));
    // Row 5 is the sum of rows 2 and 3, row 20 is empty.
    std::vector<double> y = randoms(random, int64_t{n} * n);
    for (int j = 0; n > 20 && j < n; ++j) {
      y[static_cast<size_t>(5 * n + j)] = y[static_cast<size_t>(2 * n + j)] + y[static_cast<size_t>(3 * n + j)];
      y[static_cast<size_t>(20 * n + j)] = 0;
    }
    std::vector<double> a(y.size());
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j)
        a[static_cast<size_t>(i * n + j)] = rowProduct(view(y, 0, n, n), i, view(y, 0, n, n), j);
    }
    Array<double> in(a), lower(a.size()), lengths(static_cast<size_t>(kRowLengths * n));
    Device device(8);
    launchCholesky(device.stream(), {in.read(), lower.global(), lengths.global(), n}, 1);
    device.synchronise();
    const std::vector<double> all = lower.download();
    const View factor = view(all, 0, n, n), m = view(a, 0, n, n);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j <= i; ++j) {
        const double sizes = std::sqrt(m.at(i, i) * m.at(j, j));
        double sum = 0;
        for (int k = 0; k <= j; ++k) sum += factor.at(k, i) * factor.at(k, j);
        // A raised pivot is as far off as it was raised.
        CHECK_NEAR(sizes * sum, m.at(i, j), 20 * n * kEpsilon * sizes);
      }
    }
  }
}

TEST("factorize: eigenvalues fall, and eigenvectors are those of the matrix") {
  struct Case {
    int n, batch;
    bool byBlocks, shifted;
  };
  for (const auto& [n, batch, byBlocks, shifted] :
       {Case{1, 2, false, false}, Case{2, 2, false, true}, Case{7, 2, false, false}, Case{24, 2, false, false},
        Case{33, 2, false, false}, Case{33, 2, false, true}, Case{33, 1, true, false}, Case{70, 1, true, false},
        Case{33, 2, true, true}}) {
    check::Random random(static_cast<uint64_t>(n));
    std::vector<double> a;
    for (int matrix = 0; matrix < batch; ++matrix) {
      // The second is of half the rank, and what is shifted a little below zero behind it.
      const int rank = matrix == 0 ? n : (n + 1) / 2;
      std::vector<double> values;
      for (int i = 0; i < n; ++i)
        values.push_back(i < rank ? std::pow(i + 1, byBlocks ? -1 : -3) : shifted ? -1e-5 : 0);
      const std::vector<double> one = symmetricOf(random, values);
      a.insert(a.end(), one.begin(), one.end());
    }
    Array<double> in(a), rows(a.size()), lengths(static_cast<size_t>(batch * kRowLengths * n)),
        values(static_cast<size_t>(batch * n)), vectors(a.size()), shift(static_cast<size_t>(batch));
    Array<uint32_t> busy(static_cast<size_t>(batch * kEigenSweeps));
    Device device(5);
    if (shifted) launchShift(device.stream(), {in.global(), n, shift.global()}, batch);
    const EigenParams params{in.read(),
                             n,
                             shifted ? shift.read() : nullptr,
                             rows.global(),
                             lengths.global(),
                             busy.global(),
                             values.global(),
                             vectors.global()};
    if (byBlocks) {
      launchCholesky(device.stream(), {in.read(), rows.global(), lengths.global(), n}, batch);
      launchBlockEigen(device.stream(), params, batch);
    } else {
      launchEigen(device.stream(), params, batch);
    }
    device.synchronise();
    const std::vector<double> v = vectors.download(), lambda = values.download();
    for (int matrix = 0; matrix < batch; ++matrix) {
      const View x = view(v, matrix, n, n), m = view(a, matrix, n, n);
      checkOrthonormal(x);
      for (int i = 0; i < n; ++i) {
        const double value = lambda[static_cast<size_t>(matrix * n + i)];
        if (i > 0) CHECK_AT_MOST(value, lambda[static_cast<size_t>(matrix * n + i - 1)]);
        for (int j = 0; j < n; ++j) {
          CHECK_NEAR(rowProduct(m, j, x, i), value * x.at(i, j), 32 * n * kEpsilon * norm(m));
        }
      }
    }
  }
}

TEST("factorize: the sketch finds the largest eigenvalues and their vectors") {
  constexpr int kSize = 60, kRank = 10, kSketch = 18;
  check::Random random(6);
  std::vector<double> a;
  std::vector<double> spectrum[2];
  for (auto& values : spectrum) {
    for (int i = 0; i < kSize; ++i)
      values.push_back(std::pow(static_cast<double>(i + 1), &values == spectrum ? -1.5 : -2.5));
    const std::vector<double> one = symmetricOf(random, values);
    a.insert(a.end(), one.begin(), one.end());
  }
  const Sketches sketches(a, kSize, kSketch, {7, 8});
  const std::vector<double> v = sketches.vectors.download();
  for (int b = 0; b < 2; ++b) {
    checkOrthonormal(view(v, b, kSketch, kSize));
    double left = 0, best = 0;
    for (const double value : spectrum[b]) left += value, best += value;
    for (int i = 0; i < kRank; ++i) {
      const double value = spectrum[b][static_cast<size_t>(i)];
      CHECK_NEAR(sketches.values.at(static_cast<size_t>(b * kSketch + i)), value, 1e-3 * value);
      // What the first i + 1 vectors leave of the trace, beside what the best ones leave.
      const View x = view(v, b, kSketch, kSize), m = view(a, b, kSize, kSize);
      double captured = 0;
      for (int j = 0; j < kSize; ++j) captured += rowProduct(m, j, x, i) * x.at(i, j);
      left -= captured;
      best -= value;
      CHECK_AT_MOST(left, 1.01 * best);
    }
  }
}

TEST("factorize: the sketch of a matrix of lower rank finds what there is, and zeros") {
  constexpr int kSize = 50, kRank = 9, kSketch = 16;
  check::Random random(7);
  std::vector<double> spectrum(size_t{kSize});
  for (size_t i = 0; i < kRank; ++i) spectrum[i] = std::pow(10.0, -static_cast<double>(i));
  const std::vector<double> a = symmetricOf(random, spectrum);
  const Sketches sketches(a, kSize, kSketch, {9});
  const std::vector<double> v = sketches.vectors.download();
  checkOrthonormal({v.data(), kRank, kSize});
  for (int i = 0; i < kSketch; ++i) {
    const double value = spectrum[static_cast<size_t>(i)];
    // What rounding of the matrix itself, whose largest eigenvalue is 1, leaves open.
    CHECK_NEAR(sketches.values.at(static_cast<size_t>(i)), value, 16 * kSize * kEpsilon + 1e-6 * value);
    CHECK_AT_MOST(norm({v.data() + i * kSize, 1, kSize}), 1 + 1e-12);
  }
}
