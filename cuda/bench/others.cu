#include "bench/timing.h"
#include "kernels/attention.h"
#include "kernels/calibrate.h"
#include "kernels/eigen.h"
#include "kernels/pivots.h"
#include "tensor/dtype.h"

// The other kernels, at shapes of an 8B Llama. Buffers hold zeros but where that would make the work another.

namespace bench {
namespace {

using namespace flrc::gpu;
using test::Array;
using test::Device;

class Others {
 public:
  Others(Device& device, const Chip& chip, std::vector<Row>& rows)
      : device_(device), chip_(chip), rows_(rows) {}

  void prefillAttention(int length) {
    constexpr int kHeads = 32, kKvHeads = 8, kHeadDim = 128;
    Array<float> q(zeros<float>(int64_t{length} * kHeads * kHeadDim)),
        out(static_cast<size_t>(length * kHeads * kHeadDim));
    Array<uint16_t> keys(zeros<uint16_t>(int64_t{length} * kKvHeads * kHeadDim)),
        values(zeros<uint16_t>(int64_t{length} * kKvHeads * kHeadDim));
    const PrefillParams params{q.read(), out.global(), kHeads,        kKvHeads, kHeadDim,
                               0,        keys.read(),  values.read(), 0,        length};
    add("prefill attention, 32/8 heads of 128, " + std::to_string(length) + " positions", 0,
        2.0 * length * length * kHeads * kHeadDim, [&] { launchPrefillAttention(device_.stream(), params); });
  }

  void calibration(int m, int n) {
    constexpr Passage kPassage{8, 512};
    constexpr int kTokens = kPassage.sequences * kPassage.tokens;
    Array<uint16_t> g(zeros<uint16_t>(int64_t{kTokens} * m)), x(zeros<uint16_t>(int64_t{kTokens} * n)),
        w(zeros<uint16_t>(int64_t{m} * n));
    Array<double> sums(zeros<double>(3)), moment(zeros<double>(int64_t{n} * (n + 1) / 2));
    FisherParams fisher{
        {g.read(), m, m}, {x.read(), n, n}, kPassage, reinterpret_cast<const uint8_t*>(w.read()),
        nullptr,          nullptr,          n,        nullptr,
        sums.global()};
    Array<double> partial(static_cast<size_t>(fisherPartials(fisher)));
    fisher.partial = partial.global();
    const std::string shape = std::to_string(m) + "x" + std::to_string(n) + ", 8 sequences of 512";
    add("Fisher scores, " + shape, 0, 2.0 * kTokens * m * n,
        [&] { launchFisher(device_.stream(), flrc::Dtype::bf16, fisher); });
    add("moment of inputs, " + shape, 0, 1.0 * kTokens * n * (n + 1.0), [&] {
      launchMoment(device_.stream(), {{x.read(), n, n}, kPassage, moment.global()});
    });
  }

  void randomisedEigen(int n, int sketch, int batch) {
    std::vector<double> all(static_cast<size_t>(batch) * static_cast<size_t>(n) * static_cast<size_t>(n));
    for (int b = 0; b < batch; ++b) {
      for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) {
          // A falling spectrum, and no diagonal matrix.
          all[(static_cast<size_t>(b) * static_cast<size_t>(n) + static_cast<size_t>(i)) *
                  static_cast<size_t>(n) +
              static_cast<size_t>(j)] = (i == j ? 1.0 : 0.0) / (i + 1) + 1.0 / (1.0 + i + j);
        }
      }
    }
    const int64_t tall = int64_t{batch} * sketch * n, small = int64_t{batch} * sketch * sketch;
    Array<double> matrix(all), q(static_cast<size_t>(tall)), image(static_cast<size_t>(tall)),
        vectors(static_cast<size_t>(tall)), gram(static_cast<size_t>(small)), work(static_cast<size_t>(small)),
        basis(static_cast<size_t>(small)), values(static_cast<size_t>(batch * sketch));
    Array<uint64_t> seeds(zeros<uint64_t>(batch));
    add("randomised eigenvectors, " + std::to_string(batch) + " of " + std::to_string(n) + ", sketch " +
            std::to_string(sketch),
        0, 0, [&] {
          launchSketchedEigen(device_.stream(),
                              {matrix.read(), n, sketch, 4, seeds.read(), q.global(), image.global(),
                               gram.global(), work.global(), basis.global(), values.global(), vectors.global()},
                              batch);
        });
  }

 private:
  template <typename T>
  static std::vector<T> zeros(int64_t count) {
    return std::vector<T>(static_cast<size_t>(count));
  }

  template <typename Launch>
  void add(const std::string& name, double bytes, double flops, const Launch& launchOnce) {
    constexpr int kRepeats = 5;
    const double seconds = replaySeconds(device_, [&] {
      for (int i = 0; i < kRepeats; ++i) launchOnce();
    });
    rows_.push_back({name, 1e6 * seconds / kRepeats, bytes, flops});
    print(rows_.back(), chip_);
  }

  Device& device_;
  const Chip& chip_;
  std::vector<Row>& rows_;
};

}  // namespace

void timeOthers(Device& device, const Chip& chip, std::vector<Row>& rows) {
  Others others(device, chip, rows);
  for (const int length : {512, 4096}) others.prefillAttention(length);
  others.calibration(4096, 4096);
  others.calibration(14336, 4096);
  others.randomisedEigen(576, 144, 90);
}

}  // namespace bench
