#include "cpu/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <string_view>
#include <vector>

#include "check.h"
#include "cpu/row_inputs.h"

using namespace flrc;
using cpu::Kernels;
using cpu::kMaxColumns;

namespace {

constexpr Dtype kTypes[] = {Dtype::f32, Dtype::bf16, Dtype::int8, Dtype::int4};
constexpr float kUntouched = 12345.0f;

void forTargets(const std::function<void(const Kernels&)>& body) {
  const Kernels* targets[8];
  const int count = cpu::kernelTargets(targets, 8);
  for (int i = 0; i < count; ++i) body(*targets[i]);
}

// Exactly as many values as the kernel may read, so that AddressSanitizer sees one more.
struct Columns {
  int64_t ld;
  std::vector<float> values;

  Columns(check::Random& random, int64_t length, int64_t stride, int columns)
      : ld(stride), values(random.floats((columns - 1) * stride + length)) {}
  const float* column(int c) const { return values.data() + c * ld; }
};

// rows x cols weights as the kernels see them.
std::vector<float> weightsOf(const RowMatrix& w) {
  std::vector<float> all(static_cast<size_t>(w.rows * w.cols));
  for (int64_t r = 0; r < w.rows; ++r) getRow(w, r, all.data() + r * w.cols);
  return all;
}

// rank x outputs.
std::vector<float> weightsOf(const PanelMatrix& w) {
  std::vector<float> all(static_cast<size_t>(w.rank * w.outputs));
  for (int64_t j = 0; j < w.rank; ++j) getRank(w, j, all.data() + j * w.outputs);
  return all;
}

bool sameBits(const float* a, const float* b, int64_t count) {
  return std::memcmp(a, b, static_cast<size_t>(count) * sizeof(float)) == 0;
}

struct Sum {
  double value, tolerance;
};

// What rounding to 16 bits may change, of the largest value of a group: half a step of 32639, and a little for
// the roundings before it.
constexpr double kHalfStep = 0.5 * (1 + 0x1p-15) / 32639;

// w x in fp64, and what a kernel may be off by: two roundings of 2^-24 a product and a few for the sum; for
// int8 and int4 also the rounding of x.
Sum sumOf(Dtype dtype, const float* w, const float* x, int64_t cols) {
  double sum = 0, terms = 0, rounded = 0;
  for (int64_t first = 0; first < cols; first += kGroup) {
    const int64_t end = std::min(cols, first + kGroup);
    double most = 0, weights = 0;
    for (int64_t i = first; i < end; ++i) {
      const double weight = w[i], value = x[i];
      sum += weight * value;
      terms += std::abs(weight * value);
      most = std::max(most, std::abs(value));
      weights += std::abs(weight);
    }
    rounded += kHalfStep * most * weights;
  }
  const bool integer = dtype == Dtype::int8 || dtype == Dtype::int4;
  return {sum, (static_cast<double>(2 * cols) + 4) * 0x1p-24 * (terms + rounded) + (integer ? rounded : 0)};
}

void checkRows(const Kernels& kernels, Dtype dtype, int64_t rows, int64_t cols) {
  check::Random random(static_cast<uint64_t>(rows * 1000 + cols));
  const RowMatrix w = makeRows(random.floats(rows * cols).data(), rows, cols, cols, dtype);
  const std::vector<float> weights = weightsOf(w);
  const Columns x(random, cols, cols + 5, kMaxColumns);
  const int64_t ldy = rows + 3;

  cpu::RowInputs inputs;
  const auto times = [&](const float* from, int columns, int64_t begin, int64_t end, float* y) {
    cpu::setInputs(kernels, from, x.ld, cols, columns, dtype, inputs);
    kernels.rowsTimes(w, begin, end, inputs, y, ldy);
  };
  std::vector<float> alone(static_cast<size_t>(kMaxColumns * ldy), kUntouched);
  for (int c = 0; c < kMaxColumns; ++c) {
    float* y = alone.data() + c * ldy;
    times(x.column(c), 1, 0, rows, y);
    for (int64_t r = 0; r < rows; ++r) {
      const Sum sum = sumOf(dtype, weights.data() + r * cols, x.column(c), cols);
      CHECK_NEAR(y[r], sum.value, sum.tolerance);
    }
    for (int64_t r = rows; r < ldy; ++r) CHECK_EQUAL(y[r], kUntouched);
  }

  for (int columns = 1; columns <= kMaxColumns; ++columns) {
    std::vector<float> batch(alone.size(), kUntouched);
    times(x.values.data(), columns, 0, rows, batch.data());
    CHECK(sameBits(batch.data(), alone.data(), columns * ldy));
  }
  for (const int64_t split : {int64_t{1}, rows / 3, rows / 2 + 1, rows - 1}) {
    if (split < 0 || split > rows) continue;
    std::vector<float> parts(alone.size(), kUntouched);
    times(x.values.data(), 5, split, rows, parts.data());
    times(x.values.data(), 5, 0, split, parts.data());
    CHECK(sameBits(parts.data(), alone.data(), 5 * ldy));
  }
}

// What rounding t times a rank's scale to 16 bits may change: half a step, of which 32639 are the largest t
// times the largest scale of a group, times the largest weight (before its scale) of each rank.
double roundingOf(const PanelMatrix& w, int64_t panel, int64_t rank, const float* t) {
  if (w.dtype != Dtype::int8 && w.dtype != Dtype::int4) return 0;
  const auto* scales = reinterpret_cast<const uint16_t*>(w.scale.data()) + panel * w.rank;
  double total = 0;
  for (int64_t first = 0; first < rank; first += kGroup) {
    const int64_t end = std::min(rank, first + kGroup);
    double most = 0, scale = 0;
    for (int64_t j = first; j < end; ++j) {
      most = std::max(most, std::abs(static_cast<double>(t[j])));
      scale = std::max(scale, static_cast<double>(bf16ToFloat(scales[j])));
    }
    // Two roundings of values up to 32639 come before.
    total += (kHalfStep + 0x1p-23) * most * scale * static_cast<double>(end - first) *
             (w.dtype == Dtype::int8 ? 127 : 15);
  }
  return total;
}

void checkPanels(const Kernels& kernels, Dtype dtype, int64_t stored, int64_t outputs, int64_t rank) {
  check::Random random(static_cast<uint64_t>(stored * 1000 + outputs));
  const PanelMatrix w = makePanels(random.floats(stored * outputs).data(), stored, outputs, outputs, dtype);
  const std::vector<float> weights = weightsOf(w);
  const Columns t(random, rank, rank + 2, kMaxColumns);
  const int64_t ldy = outputs + 4;

  std::vector<float> alone(static_cast<size_t>(kMaxColumns * ldy), kUntouched);
  for (int c = 0; c < kMaxColumns; ++c) {
    float* y = alone.data() + c * ldy;
    kernels.panelsTimes(w, 0, w.panels(), rank, t.column(c), t.ld, 1, y, ldy);
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = 0, terms = 0;
      for (int64_t j = 0; j < rank; ++j) {
        const double weight = weights[static_cast<size_t>(j * outputs + o)], input = t.column(c)[j];
        sum += weight * input;
        terms += std::abs(input) * std::max(std::abs(weight), 2.0);  // int4's zero may be as large as the range
      }
      const double rounding = roundingOf(w, o / kPanel, rank, t.column(c));
      CHECK_NEAR(y[o], sum, rounding + static_cast<double>(2 * rank + 4) * 0x1p-24 * (terms + rounding));
    }
    for (int64_t o = outputs; o < ldy; ++o) CHECK_EQUAL(y[o], kUntouched);
  }

  for (int columns = 1; columns <= kMaxColumns; ++columns) {
    std::vector<float> batch(alone.size(), kUntouched);
    kernels.panelsTimes(w, 0, w.panels(), rank, t.values.data(), t.ld, columns, batch.data(), ldy);
    CHECK(sameBits(batch.data(), alone.data(), columns * ldy));
  }
  std::vector<float> parts(alone.size(), kUntouched);
  for (int64_t panel = w.panels(); panel-- > 0;) {
    kernels.panelsTimes(w, panel, panel + 1, rank, t.values.data(), t.ld, 7, parts.data(), ldy);
  }
  CHECK(sameBits(parts.data(), alone.data(), 7 * ldy));
}

}  // namespace

TEST("kernels: the best set is the first that this processor runs") {
  const Kernels* targets[8];
  const int count = cpu::kernelTargets(targets, 8);
  CHECK(count >= 1);
  CHECK(&cpu::kernels() == targets[0]);
  CHECK_EQUAL(cpu::kernelTargets(targets, 1), 1);
}

TEST("rows: y = W x for every dtype and shape, the same bits in any batch and split") {
  forTargets([](const Kernels& kernels) {
    for (const Dtype dtype : kTypes) {
      for (const int64_t cols : {1, 7, 31, 32, 33, 48, 64, 100, 257}) {
        for (const int64_t rows : {1, 5, 16, 33, 75}) checkRows(kernels, dtype, rows, cols);
      }
    }
  });
}

TEST("panels: y = W^T t for every dtype, shape and first ranks, the same bits in any batch and split") {
  forTargets([](const Kernels& kernels) {
    for (const Dtype dtype : kTypes) {
      for (const int64_t outputs : {1, 15, 31, 33, 64, 75}) {
        checkPanels(kernels, dtype, 1, outputs, 1);
        checkPanels(kernels, dtype, 9, outputs, 9);
        checkPanels(kernels, dtype, 9, outputs, 5);
        checkPanels(kernels, dtype, 70, outputs, 38);
        checkPanels(kernels, dtype, 9, outputs, 0);
      }
      checkPanels(kernels, dtype, 531, 40, 529);
    }
  });
}

TEST("rows and panels: products of bytes give the bits that products of 16-bit values give") {
  const Kernels* targets[8];
  const Kernels *bytes = nullptr, *shorts = nullptr;
  for (int i = 0, count = cpu::kernelTargets(targets, 8); i < count; ++i) {
    if (std::string_view(targets[i]->target) == "avx512-vnni") bytes = targets[i];
    if (std::string_view(targets[i]->target) == "avx512") shorts = targets[i];
  }
  if (bytes == nullptr) return;  // a processor without VNNI
  check::Random random(11);
  const int64_t m = 75, n = 257;
  const std::vector<float> w = random.floats(m * n);
  const Columns x(random, n, n, 3);
  for (const Dtype dtype : {Dtype::int8, Dtype::int4}) {
    const RowMatrix rows = makeRows(w.data(), m, n, n, dtype);
    const PanelMatrix panels = makePanels(w.data(), n, m, m, dtype);
    std::vector<float> y[2];
    for (const Kernels* kernels : {shorts, bytes}) {
      std::vector<float>& out = y[kernels == bytes];
      out.resize(static_cast<size_t>(6 * m));
      cpu::RowInputs inputs;
      cpu::setInputs(*kernels, x.values.data(), x.ld, n, 3, dtype, inputs);
      kernels->rowsTimes(rows, 0, m, inputs, out.data(), m);
      kernels->panelsTimes(panels, 0, panels.panels(), n, x.values.data(), x.ld, 3, out.data() + 3 * m, m);
    }
    CHECK(sameBits(y[0].data(), y[1].data(), 6 * m));
  }
}

TEST("rows and panels: a weight that is not finite shows in its own output only") {
  forTargets([](const Kernels& kernels) {
    std::vector<float> w(6 * 40, 1.0f), x(40, 1.0f), y(6);
    w[2 * 40 + 39] = INFINITY;
    const RowMatrix rows = makeRows(w.data(), 6, 40, 40, Dtype::f32);
    cpu::RowInputs inputs;
    cpu::setInputs(kernels, x.data(), 40, 40, 1, Dtype::f32, inputs);
    kernels.rowsTimes(rows, 0, 6, inputs, y.data(), 6);
    for (int r = 0; r < 6; ++r) CHECK_EQUAL(y[static_cast<size_t>(r)], r == 2 ? INFINITY : 40.0f);
  });
}

TEST("rows: an input that is not finite shows in every output of its column, for every dtype") {
  forTargets([](const Kernels& kernels) {
    const std::vector<float> w(6 * 40, 1.0f);
    for (const Dtype dtype : kTypes) {
      const RowMatrix rows = makeRows(w.data(), 6, 40, 40, dtype);
      for (const float bad : {INFINITY, -INFINITY, NAN}) {
        for (const size_t at : {0, 17, 39}) {
          std::vector<float> x(2 * 40, 1.0f), y(2 * 6);
          x[at] = bad;
          cpu::RowInputs inputs;
          cpu::setInputs(kernels, x.data(), 40, 40, 2, dtype, inputs);
          kernels.rowsTimes(rows, 0, 6, inputs, y.data(), 6);
          for (size_t r = 0; r < 6; ++r) CHECK(!std::isfinite(y[r]));
          for (size_t r = 6; r < 12; ++r) CHECK(std::isfinite(y[r]));
        }
      }
    }
  });
}

TEST("rows: inputs too small to divide by count as 0, and the largest do not overflow") {
  forTargets([](const Kernels& kernels) {
    const std::vector<float> w(4 * 32, 1.0f);
    for (const Dtype dtype : {Dtype::int8, Dtype::int4}) {
      const RowMatrix rows = makeRows(w.data(), 4, 32, 32, dtype);
      std::vector<float> x(32, 1e-39f), y(4);
      cpu::RowInputs inputs;
      cpu::setInputs(kernels, x.data(), 32, 32, 1, dtype, inputs);
      kernels.rowsTimes(rows, 0, 4, inputs, y.data(), 4);
      for (const float value : y) CHECK_NEAR(value, 0, 1e-37);
      std::fill(x.begin(), x.end(), 0.0f);
      x[5] = 1e38f;
      cpu::setInputs(kernels, x.data(), 32, 32, 1, dtype, inputs);
      kernels.rowsTimes(rows, 0, 4, inputs, y.data(), 4);
      for (const float value : y) CHECK_NEAR(value, 1e38, 1e36);
    }
  });
}

TEST("widen: rows and panels come out bit for bit as getRow and getRank give them") {
  forTargets([](const Kernels& kernels) {
    check::Random random(5);
    for (const Dtype dtype : kTypes) {
      for (const int64_t cols : {1, 7, 33, 48, 65}) {
        const int64_t rows = kPanel + 11, ld = kPanel + 1;
        const RowMatrix w = makeRows(random.floats(rows * cols).data(), rows, cols, cols, dtype);
        const std::vector<float> weights = weightsOf(w);
        for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, kPanel}, {0, 5}, {kPanel, rows}}) {
          std::vector<float> out(static_cast<size_t>(cols * ld), kUntouched);
          kernels.widenRows(w, begin, end, out.data(), ld);
          for (int64_t c = 0; c < cols; ++c) {
            for (int64_t r = 0; r < ld; ++r) {
              const float expected =
                  r < end - begin ? weights[static_cast<size_t>((begin + r) * cols + c)] : kUntouched;
              CHECK_EQUAL(out[static_cast<size_t>(c * ld + r)], expected);
            }
          }
        }

        const int64_t stored = 11, rank = 10, first = cols > kPanel ? 1 : 0;
        const PanelMatrix p = makePanels(random.floats(stored * cols).data(), stored, cols, cols, dtype);
        const std::vector<float> panelWeights = weightsOf(p);
        std::vector<float> out(static_cast<size_t>(rank * (cols + 2)), kUntouched);
        kernels.widenPanels(p, first, p.panels(), rank, out.data(), cols + 2);
        for (int64_t j = 0; j < rank; ++j) {
          for (int64_t o = 0; o < cols + 2; ++o) {
            const int64_t output = first * kPanel + o;
            const float expected =
                output < cols ? panelWeights[static_cast<size_t>(j * cols + output)] : kUntouched;
            CHECK_EQUAL(out[static_cast<size_t>(j * (cols + 2) + o)], expected);
          }
        }
      }
    }
  });
}

TEST("gather: outputs come from t and u in their order, set and added, whatever their number") {
  forTargets([](const Kernels& kernels) {
    check::Random random(9);
    for (const int64_t outputs : {1, 15, 16, 17, 32, 33, 100, 129}) {
      for (const int64_t rank : {int64_t{0}, int64_t{1}, outputs / 3, outputs}) {
        // Every so many outputs, so that both parts have runs and single places.
        std::vector<int32_t> from(static_cast<size_t>(outputs));
        std::vector<uint32_t> taken(static_cast<size_t>((outputs + 31) / 32));
        int32_t t = 0, u = static_cast<int32_t>(rank);
        for (int64_t o = 0; o < outputs; ++o) {
          const bool pivot = t < rank && (outputs - o <= rank - t || o % 5 < 2);
          from[static_cast<size_t>(o)] = pivot ? t++ : u++;
          if (pivot) taken[static_cast<size_t>(o / 32)] |= uint32_t{1} << (o % 32);
        }
        const std::vector<float> latent = random.floats(outputs), before = random.floats(outputs);
        // All of them, and some, which leave the others as they are.
        for (const int64_t begin : {int64_t{0}, outputs / 2, outputs}) {
          for (const int64_t end : {begin, (begin + outputs) / 2, outputs}) {
            const cpu::GatherMap map{from.data(), taken.data(), rank, begin, end};
            std::vector<float> set(before), added(before);
            kernels.gather(map, latent.data(), false, set.data());
            kernels.gather(map, latent.data(), true, added.data());
            for (int64_t o = 0; o < outputs; ++o) {
              const auto at = static_cast<size_t>(o);
              const float own = latent[static_cast<size_t>(from[at])], kept = before[at];
              const bool inside = o >= begin && o < end;
              CHECK_EQUAL(set[at], inside ? own : kept);
              CHECK_EQUAL(added[at], inside ? kept + own : kept);
            }
          }
        }
      }
    }
  });
}
