#include "bench/noise.h"
#include "bench/timing.h"
#include "kernels/calibrate.h"
#include "kernels/eigen.h"
#include "kernels/pivots.h"
#include "kernels/products.h"
#include "tensor/dtype.h"

// Calibration and factors at the shapes of compare.py, which times the same work in PyTorch and cuSOLVER. All
// on random values: zeros take less power, and a chip is faster for it.

namespace bench {
namespace {

using namespace flrc::gpu;
using test::Array;
using test::Device;

constexpr Passage kPassage{8, 512};
constexpr int kTokens = kPassage.sequences * kPassage.tokens;

class Calibration {
 public:
  Calibration(Device& device, Report& report, Multiply by = Multiply::warps)
      : device_(device),
        report_(report),
        by_(by),
        warpgroups_(by == Multiply::warps ? 0 : report.chip.warpgroups) {}

  void fisher(int m, int n) {
    const int64_t outputs = int64_t{kTokens} * m, inputs = int64_t{kTokens} * n, weights = int64_t{m} * n;
    Array<uint16_t> g(static_cast<size_t>(outputs)), x(static_cast<size_t>(inputs)),
        w(static_cast<size_t>(weights));
    fill({g.global(), nullptr, nullptr, outputs, 0});
    fill({x.global(), nullptr, nullptr, inputs, 0});
    fill({w.global(), nullptr, nullptr, weights, 0});
    Array<double> sums(std::vector<double>(3));
    FisherParams params{{g.read(), m, m}, {x.read(), n, n},
                        kPassage,         reinterpret_cast<const uint8_t*>(w.read()),
                        nullptr,          sums.global()};
    Array<double> partial(static_cast<size_t>(fisherPartials(params)));
    params.partial = partial.global();
    multiply("Fisher scores, " + std::to_string(m) + "x" + std::to_string(n) + ", 8 sequences of 512",
             2.0 * kTokens * m * n,
             [&] { launchFisher(device_.stream(), flrc::Dtype::bf16, params, warpgroups_); });
  }

  void moment(int n) {
    Array<uint16_t> x(static_cast<size_t>(int64_t{kTokens} * n));
    fill({x.global(), nullptr, nullptr, int64_t{kTokens} * n, 0});
    Array<double> sum(std::vector<double>(static_cast<size_t>(int64_t{n} * (n + 1) / 2)));
    multiply("moment of inputs, " + std::to_string(n) + ", 8 sequences of 512", 1.0 * kTokens * n * (n + 1.0),
             [&] {
               launchMoment(device_.stream(), {{x.read(), n, n}, nullptr, kPassage, sum.global()}, warpgroups_);
             });
  }

  void thinProduct(int n, int rank) {
    const size_t count = static_cast<size_t>(n) * static_cast<size_t>(rank);
    Array<uint16_t> x(static_cast<size_t>(int64_t{kTokens} * n)), high(count), low(count);
    Array<float> v(static_cast<size_t>(kTokens) * static_cast<size_t>(rank));
    fill({x.global(), nullptr, nullptr, int64_t{kTokens} * n, 0});
    for (Array<uint16_t>* half : {&high, &low}) fill({half->global(), nullptr, nullptr, int64_t{n} * rank, 0});
    multiply("thin product, " + shapeOf(n, rank), 4.0 * kTokens * n * rank, [&] {
      launchThinProduct(
          device_.stream(),
          {{x.read(), n, n}, nullptr, kTokens, high.read(), low.read(), n, rank, v.global(), rank},
          warpgroups_);
    });
  }

  void curve(int n, int rank) {
    const size_t count = static_cast<size_t>(n) * static_cast<size_t>(rank),
                 products = static_cast<size_t>(kTokens) * static_cast<size_t>(rank);
    Array<uint16_t> high(count), low(count);
    Array<float> factors(count), v(products), u(products);
    fill({nullptr, factors.global(), nullptr, int64_t{n} * rank, 0});
    for (Array<float>* product : {&u, &v})
      fill({nullptr, product->global(), nullptr, int64_t{kTokens} * rank, 0});
    Array<double> partial(static_cast<size_t>(kCurveBlocks * (rank + 1))),
        curve(std::vector<double>(static_cast<size_t>(rank + 1)));
    add("halves of factors, " + shapeOf(n, rank), 0, [&] {
      launchSplit(device_.stream(), {factors.read(), rank, n, n, high.global(), low.global()});
    });
    add("curve, " + shapeOf(n, rank), 0, [&] {
      launchCurve(device_.stream(),
                  {u.read(), v.read(), nullptr, kTokens, rank, partial.global(), curve.global()});
    });
  }

  // Of weights with inputs in halves, forward and back, of one sequence and of all.
  void passes(int m, int n) {
    const int64_t widest = std::max(m, n);
    Array<uint16_t> x(static_cast<size_t>(kTokens * widest)), low(static_cast<size_t>(kTokens * widest)),
        w(static_cast<size_t>(int64_t{m} * n));
    Array<float> y(static_cast<size_t>(kTokens * widest));
    for (Array<uint16_t>* half : {&x, &low}) fill({half->global(), nullptr, nullptr, kTokens * widest, 0});
    fill({w.global(), nullptr, nullptr, int64_t{m} * n, 0});
    for (const int tokens : {kPassage.tokens, kTokens}) {
      for (const bool back : {false, true}) {
        const int from = back ? m : n, to = back ? n : m;
        multiply(
            "product" + std::string(back ? " back, " : ", ") + std::to_string(m) + "x" + std::to_string(n) +
                " with " + std::to_string(tokens) + " tokens in halves",
            4.0 * tokens * m * n, [&] {
              launchThinProduct(
                  device_.stream(),
                  {{x.read(), from, from}, low.read(), tokens, w.read(), nullptr, n, to, y.global(), to, back},
                  warpgroups_);
            });
      }
    }
  }

  void product(int m, int n, int k, int batch, bool transposed) {
    const int64_t left = int64_t{batch} * m * k, right = int64_t{batch} * n * k, out = int64_t{batch} * m * n;
    Array<double> a(static_cast<size_t>(left)), b(static_cast<size_t>(right)), c(static_cast<size_t>(out));
    fill({nullptr, nullptr, a.global(), left, 0});
    fill({nullptr, nullptr, b.global(), right, 0});
    add("fp64 product" + std::string(transposed ? " with a transpose, " : ", ") + std::to_string(batch) +
            " of " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k),
        2.0 * batch * m * n * k, [&] {
          launchProduct(device_.stream(), {a.read(), b.read(), c.global(), m, n, k, transposed}, batch);
        });
  }

  void orthonormalise(int rows, int width, int batch) {
    const int64_t count = int64_t{batch} * rows * width, small = int64_t{batch} * rows * rows;
    Array<double> q(static_cast<size_t>(count)), gram(static_cast<size_t>(small)),
        lower(static_cast<size_t>(small)), lengths(static_cast<size_t>(int64_t{batch} * kRowLengths * rows));
    fill({nullptr, nullptr, q.global(), count, 0});
    const std::string shape = std::to_string(batch) + " of " + std::to_string(rows);
    add("Cholesky factors, " + shape, 0, [&] {
      launchCholesky(device_.stream(), {gram.read(), lower.global(), lengths.global(), rows}, batch);
    });
    add("orthonormal rows, " + shape + "x" + std::to_string(width), 0, [&] {
      launchOrthonormalise(device_.stream(),
                           {q.global(), rows, width, gram.global(), lower.global(), lengths.global()}, batch);
    });
  }

  void eigen(int n, int batch) {
    const Gram gram(*this, n, n, batch);
    const auto all = static_cast<size_t>(int64_t{batch} * n * n);
    Array<double> rows(all), vectors(all), values(static_cast<size_t>(batch * n)),
        lengths(static_cast<size_t>(batch * kRowLengths * n));
    Array<uint32_t> busy(static_cast<size_t>(batch * kEigenSweeps));
    add("all eigenvectors, " + std::to_string(batch) + " of " + std::to_string(n), 0, [&] {
      launchEigen(device_.stream(),
                  {gram.matrix.read(), n, nullptr, rows.global(), lengths.global(), busy.global(),
                   values.global(), vectors.global()},
                  batch);
    });
  }

  void randomisedEigen(int n, int sketch, int batch) {
    const Gram gram(*this, n, n, batch);
    const int64_t tall = int64_t{batch} * sketch * n, small = int64_t{batch} * sketch * sketch;
    Array<double> q(static_cast<size_t>(tall)), image(static_cast<size_t>(tall)),
        vectors(static_cast<size_t>(tall)), projected(static_cast<size_t>(small)),
        rows(static_cast<size_t>(small)), basis(static_cast<size_t>(small)),
        lengths(static_cast<size_t>(batch * kRowLengths * sketch)), shift(static_cast<size_t>(batch)),
        values(static_cast<size_t>(batch * sketch));
    Array<uint64_t> seeds(std::vector<uint64_t>(static_cast<size_t>(batch), 1));
    Array<uint32_t> busy(static_cast<size_t>(batch * kEigenSweeps));
    add("randomised eigenvectors, " + std::to_string(batch) + " of " + std::to_string(n) + ", sketch " +
            std::to_string(sketch),
        0, [&] {
          launchSketchedEigen(device_.stream(),
                              {gram.matrix.read(), n, sketch, 4, seeds.read(), q.global(), image.global(),
                               projected.global(), rows.global(), basis.global(), lengths.global(),
                               busy.global(), shift.global(), values.global(), vectors.global()},
                              batch);
        });
  }

  void pivots(int rows, int width, int batch) {
    const int64_t count = int64_t{batch} * rows * width;
    Array<double> u(static_cast<size_t>(count)), r(static_cast<size_t>(count)), z(static_cast<size_t>(count)),
        basis(static_cast<size_t>(int64_t{batch} * rows * rows)), norms(static_cast<size_t>(batch * width));
    Array<int32_t> order(static_cast<size_t>(batch * rows)), rank(static_cast<size_t>(batch));
    add("pivots and coefficients, " + std::to_string(batch) + " of " + std::to_string(rows) + "x" +
            std::to_string(width),
        0, [&] {
          // They are destroyed each time.
          launchNoise(device_.stream(), {nullptr, nullptr, u.global(), count, 0});
          launchPivotedQr(device_.stream(),
                          {u.global(), r.global(), basis.global(), norms.global(), order.global(),
                           rank.global(), rows, width},
                          batch);
          launchCoefficients(device_.stream(), {r.read(), order.read(), rank.read(), z.global(), rows, width},
                             batch);
        });
  }

 private:
  // Matrices as whitening makes them: factor factor^T, with eigenvalues that fall.
  struct Gram {
    Array<double> factor, matrix;
    Gram(Calibration& of, int n, int k, int batch)
        : factor(static_cast<size_t>(int64_t{batch} * n * k)),
          matrix(static_cast<size_t>(int64_t{batch} * n * n)) {
      of.fill({nullptr, nullptr, factor.global(), int64_t{batch} * n * k, k});
      launchProduct(of.device_.stream(), {factor.read(), factor.read(), matrix.global(), n, n, k, true}, batch);
      of.device_.synchronise();
    }
  };

  static std::string shapeOf(int n, int rank) {
    return std::to_string(kTokens) + " tokens, " + std::to_string(n) + " wide, rank " + std::to_string(rank);
  }

  void fill(const NoiseParams& params) {
    launchNoise(device_.stream(), params);
    device_.synchronise();
  }

  template <typename Launch>
  void multiply(const std::string& name, double flops, const Launch& launchOnce) {
    add(name + (by_ == Multiply::warps ? ", warps" : ", warpgroups"), flops, launchOnce);
  }

  template <typename Launch>
  void add(const std::string& name, double flops, const Launch& launchOnce) {
    constexpr int kRepeats = 3;
    const double seconds = replaySeconds(device_, [&] {
      for (int i = 0; i < kRepeats; ++i) launchOnce();
    });
    report_.add({name, 1e6 * seconds / kRepeats, 0, flops});
  }

  Device& device_;
  Report& report_;
  Multiply by_;
  int warpgroups_;
};

}  // namespace

void timeFisher(Device& device, Report& report, Multiply by) {
  Calibration calibration(device, report, by);
  calibration.fisher(4096, 4096);
  calibration.fisher(1024, 4096);
  calibration.fisher(14336, 4096);
  calibration.fisher(4096, 14336);
}

void timeMoments(Device& device, Report& report, Multiply by) { Calibration(device, report, by).moment(4096); }

void timeThinProducts(Device& device, Report& report, Multiply by) {
  Calibration calibration(device, report, by);
  calibration.thinProduct(4096, 1024);
  calibration.passes(4096, 4096);
  calibration.passes(14336, 4096);
  calibration.passes(4096, 14336);
}

void timeCurves(Device& device, Report& report) { Calibration(device, report).curve(4096, 1024); }

void timeFactors(Device& device, Report& report) {
  Calibration calibration(device, report);
  calibration.product(4096, 4096, 4096, 1, false);
  calibration.product(144, 576, 576, 90, false);
  calibration.product(144, 144, 576, 90, true);
  calibration.orthonormalise(144, 576, 90);
  calibration.eigen(144, 90);
  calibration.randomisedEigen(576, 144, 90);
  calibration.randomisedEigen(4096, 1024, 1);
  calibration.eigen(576, 30);
  calibration.pivots(144, 576, 90);
}

}  // namespace bench
