#include "cpu/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "check.h"

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

void checkRows(const Kernels& kernels, Dtype dtype, int64_t rows, int64_t cols) {
  check::Random random(static_cast<uint64_t>(rows * 1000 + cols));
  const RowMatrix w = makeRows(random.floats(rows * cols).data(), rows, cols, cols, dtype);
  const std::vector<float> weights = weightsOf(w);
  const Columns x(random, cols, cols + 5, kMaxColumns);
  const int64_t ldy = rows + 3;

  std::vector<float> alone(static_cast<size_t>(kMaxColumns * ldy), kUntouched);
  for (int c = 0; c < kMaxColumns; ++c) {
    float* y = alone.data() + c * ldy;
    kernels.rowsTimes(w, 0, rows, x.column(c), x.ld, 1, y, ldy);
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0, terms = 0;
      for (int64_t i = 0; i < cols; ++i) {
        const double term = static_cast<double>(weights[static_cast<size_t>(r * cols + i)]) *
                            static_cast<double>(x.column(c)[i]);
        sum += term;
        terms += std::abs(term);
      }
      // A lane adds up to cols / 4 + 8 products (4 lanes, whole groups), two roundings each, and the lanes are
      // added up.
      CHECK_NEAR(y[r], sum, (static_cast<double>(cols) / 2 + 20) * 0x1p-24 * terms);
    }
    for (int64_t r = rows; r < ldy; ++r) CHECK_EQUAL(y[r], kUntouched);
  }

  for (int columns = 1; columns <= kMaxColumns; ++columns) {
    std::vector<float> batch(alone.size(), kUntouched);
    kernels.rowsTimes(w, 0, rows, x.values.data(), x.ld, columns, batch.data(), ldy);
    CHECK(sameBits(batch.data(), alone.data(), columns * ldy));
  }
  for (const int64_t split : {int64_t{1}, rows / 3, rows / 2 + 1, rows - 1}) {
    if (split < 0 || split > rows) continue;
    std::vector<float> parts(alone.size(), kUntouched);
    kernels.rowsTimes(w, split, rows, x.values.data(), x.ld, 5, parts.data(), ldy);
    kernels.rowsTimes(w, 0, split, x.values.data(), x.ld, 5, parts.data(), ldy);
    CHECK(sameBits(parts.data(), alone.data(), 5 * ldy));
  }
}

void checkPanels(const Kernels& kernels, Dtype dtype, int64_t rank, int64_t outputs, int64_t rankBegin,
                 int64_t rankEnd) {
  check::Random random(static_cast<uint64_t>(rank * 1000 + outputs));
  const PanelMatrix w = makePanels(random.floats(rank * outputs).data(), rank, outputs, outputs, dtype);
  const std::vector<float> weights = weightsOf(w);
  const int64_t active = rankEnd - rankBegin;
  const Columns t(random, active, active + 2, kMaxColumns);
  const int64_t ldy = outputs + 4;

  std::vector<float> alone(static_cast<size_t>(kMaxColumns * ldy), kUntouched);
  for (int c = 0; c < kMaxColumns; ++c) {
    float* y = alone.data() + c * ldy;
    kernels.panelsTimes(w, 0, w.panels(), rankBegin, rankEnd, t.column(c), t.ld, 1, y, ldy);
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = 0, terms = 0;
      for (int64_t j = 0; j < active; ++j) {
        const double term = static_cast<double>(weights[static_cast<size_t>((rankBegin + j) * outputs + o)]) *
                            static_cast<double>(t.column(c)[j]);
        sum += term;
        terms += std::abs(term);
      }
      // One product a rank, two roundings each.
      CHECK_NEAR(y[o], sum, static_cast<double>(2 * active + 2) * 0x1p-24 * terms);
    }
    for (int64_t o = outputs; o < ldy; ++o) CHECK_EQUAL(y[o], kUntouched);
  }

  for (int columns = 1; columns <= kMaxColumns; ++columns) {
    std::vector<float> batch(alone.size(), kUntouched);
    kernels.panelsTimes(w, 0, w.panels(), rankBegin, rankEnd, t.values.data(), t.ld, columns, batch.data(),
                        ldy);
    CHECK(sameBits(batch.data(), alone.data(), columns * ldy));
  }
  std::vector<float> parts(alone.size(), kUntouched);
  for (int64_t panel = w.panels(); panel-- > 0;) {
    kernels.panelsTimes(w, panel, panel + 1, rankBegin, rankEnd, t.values.data(), t.ld, 7, parts.data(), ldy);
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
        for (const int64_t rows : {1, 2, 3, 4, 5, 11}) checkRows(kernels, dtype, rows, cols);
      }
    }
  });
}

TEST("panels: y = W^T t for every dtype, shape and range of ranks, the same bits in any batch and split") {
  forTargets([](const Kernels& kernels) {
    for (const Dtype dtype : kTypes) {
      for (const int64_t outputs : {1, 31, 33, 63, 64, 65, 130}) {
        checkPanels(kernels, dtype, 1, outputs, 0, 1);
        checkPanels(kernels, dtype, 9, outputs, 0, 9);
        checkPanels(kernels, dtype, 9, outputs, 0, 5);
        checkPanels(kernels, dtype, 40, outputs, 13, 38);
        checkPanels(kernels, dtype, 9, outputs, 4, 4);
      }
    }
  });
}

TEST("rows and panels: a weight that is not finite shows in its own output only") {
  forTargets([](const Kernels& kernels) {
    std::vector<float> w(6 * 40, 1.0f), x(40, 1.0f), y(6);
    w[2 * 40 + 39] = INFINITY;
    const RowMatrix rows = makeRows(w.data(), 6, 40, 40, Dtype::f32);
    kernels.rowsTimes(rows, 0, 6, x.data(), 40, 1, y.data(), 6);
    for (int r = 0; r < 6; ++r) CHECK_EQUAL(y[static_cast<size_t>(r)], r == 2 ? INFINITY : 40.0f);
  });
}

TEST("dequantise: rows and panels come out bit for bit as getRow and getRank give them") {
  forTargets([](const Kernels& kernels) {
    check::Random random(5);
    for (const Dtype dtype : kTypes) {
      for (const int64_t width : {1, 7, 33, 48, 64, 65, 130}) {
        const std::vector<float> w = random.floats(6 * width);
        const RowMatrix rows = makeRows(w.data(), 6, width, width, dtype);
        const std::vector<float> rowWeights = weightsOf(rows);
        std::vector<float> out(static_cast<size_t>(3 * width));
        kernels.dequantiseRows(rows, 2, 5, out.data(), width);
        CHECK(sameBits(out.data(), rowWeights.data() + 2 * width, 3 * width));

        const PanelMatrix panels = makePanels(w.data(), 6, width, width, dtype);
        const std::vector<float> panelWeights = weightsOf(panels);
        for (int64_t panel = 0; panel < panels.panels(); ++panel) {
          const int64_t ld = kPanel + 1, outputs = std::min(kPanel, width - panel * kPanel);
          std::vector<float> tile(static_cast<size_t>(4 * ld), kUntouched);
          kernels.dequantisePanel(panels, panel, 1, 5, tile.data(), ld);
          for (int64_t j = 0; j < 4; ++j) {
            CHECK(sameBits(tile.data() + j * ld, panelWeights.data() + (j + 1) * width + panel * kPanel,
                           outputs));
            for (int64_t o = outputs; o < kPanel; ++o) CHECK_EQUAL(tile[static_cast<size_t>(j * ld + o)], 0.0f);
            CHECK_EQUAL(tile[static_cast<size_t>(j * ld + kPanel)], kUntouched);
          }
        }
      }
    }
  });
}
