// Products of prompts by bf16 kernels, where this processor has them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "check.h"
#include "cpu/kernels.h"

using namespace flrc;
using cpu::Kernels;
using cpu::PromptInputs;

namespace {

constexpr Dtype kTypes[] = {Dtype::bf16, Dtype::int8, Dtype::int4};
constexpr float kUntouched = 12345.0f;

void forTargets(const std::function<void(const Kernels&)>& body) {
  const Kernels* targets[8];
  const int count = cpu::kernelTargets(targets, 8);
  for (int i = 0; i < count; ++i) {
    if (targets[i]->rowsTimesPrompt != nullptr) body(*targets[i]);
  }
}

PromptInputs promptOf(const Kernels& kernels, const float* x, int64_t ldx, int64_t inputs, int64_t columns) {
  PromptInputs prompt;
  cpu::resize(prompt, columns, inputs);
  for (int64_t tile = 0; tile < prompt.tiles(); ++tile) {
    cpu::setPromptTile(kernels, x, ldx, inputs, tile, prompt);
  }
  return prompt;
}

double rounded(float value) { return bf16ToFloat(floatToBf16(value)); }

// y[o] of one column in fp64, of weights w[o * outputStep + i * inputStep] and inputs rounded to bf16. Products
// of them are exact in f32, and two roundings of 2^-24 a product and a few for the sum are left.
void checkColumn(const float* w, int64_t outputStep, int64_t inputStep, const float* x, int64_t inputs,
                 const float* y, int64_t outputs) {
  for (int64_t o = 0; o < outputs; ++o) {
    double sum = 0, terms = 0;
    for (int64_t i = 0; i < inputs; ++i) {
      const double term = rounded(w[o * outputStep + i * inputStep]) * rounded(x[i]);
      sum += term;
      terms += std::abs(term);
    }
    CHECK_NEAR(y[o], sum, static_cast<double>(2 * inputs + 4) * 0x1p-24 * terms);
  }
}

using Product = std::function<void(const PromptInputs& x, int64_t begin, int64_t end, float* y)>;

// What holds of any product of `outputs` by `inputs` weights: its values, and that neither the number of
// columns nor the split of outputs, at whole panels, changes a bit.
void checkProduct(const Kernels& kernels, const std::vector<float>& w, int64_t outputStep, int64_t inputStep,
                  int64_t inputs, int64_t outputs, int64_t ldy, const Product& times) {
  check::Random random(static_cast<uint64_t>(inputs * 100 + outputs));
  const int64_t most = 29, ldx = inputs + 3;
  const std::vector<float> x = random.floats((most - 1) * ldx + inputs);
  std::vector<float> all(static_cast<size_t>(most * ldy), kUntouched);
  times(promptOf(kernels, x.data(), ldx, inputs, most), 0, outputs, all.data());
  for (int64_t c = 0; c < most; ++c) {
    const float* y = all.data() + c * ldy;
    checkColumn(w.data(), outputStep, inputStep, x.data() + c * ldx, inputs, y, outputs);
    for (int64_t o = outputs; o < ldy; ++o) CHECK_EQUAL(y[o], kUntouched);
  }
  for (int64_t columns = 1; columns < most; ++columns) {
    std::vector<float> some(all.size(), kUntouched);
    times(promptOf(kernels, x.data() + ldx, ldx, inputs, columns), 0, outputs, some.data());
    CHECK(std::memcmp(some.data(), all.data() + ldy, static_cast<size_t>(columns * ldy) * sizeof(float)) == 0);
  }
  std::vector<float> parts(all.size(), kUntouched);
  const PromptInputs prompt = promptOf(kernels, x.data(), ldx, inputs, most);
  for (int64_t begin = 0; begin < outputs; begin += kPanel) {
    times(prompt, begin, std::min(outputs, begin + kPanel), parts.data());
  }
  CHECK(parts == all);
}

}  // namespace

TEST("prompt: y = W x with both rounded to bf16, for every dtype and shape, the same bits in any prompt") {
  forTargets([](const Kernels& kernels) {
    for (const Dtype dtype : kTypes) {
      for (const int64_t cols : {1, 7, 32, 33, 100, 513, 1100}) {
        for (const int64_t rows : {1, 16, 33, 75}) {
          check::Random random(static_cast<uint64_t>(rows));
          const RowMatrix w = makeRows(random.floats(rows * cols).data(), rows, cols, cols, dtype);
          std::vector<float> weights(static_cast<size_t>(rows * cols));
          for (int64_t r = 0; r < rows; ++r) getRow(w, r, weights.data() + r * cols);
          const int64_t ldy = rows + 3;
          checkProduct(kernels, weights, cols, 1, cols, rows, ldy,
                       [&](const PromptInputs& x, int64_t begin, int64_t end, float* y) {
                         kernels.rowsTimesPrompt(w, begin, end, x, y, ldy);
                       });
        }
      }
    }
  });
}

TEST("prompt: y = W^T t of the first ranks, the same bits in any prompt") {
  forTargets([](const Kernels& kernels) {
    for (const Dtype dtype : kTypes) {
      for (const int64_t outputs : {1, 31, 33, 75}) {
        for (const auto& [stored, rank] :
             {std::pair<int64_t, int64_t>{1, 1}, {9, 9}, {9, 5}, {70, 38}, {531, 529}, {531, 514}}) {
          check::Random random(static_cast<uint64_t>(stored));
          const PanelMatrix w =
              makePanels(random.floats(stored * outputs).data(), stored, outputs, outputs, dtype);
          std::vector<float> weights(static_cast<size_t>(stored * outputs));
          for (int64_t j = 0; j < stored; ++j) getRank(w, j, weights.data() + j * outputs);
          const int64_t ldy = outputs + 4;
          checkProduct(kernels, weights, 1, outputs, rank, outputs, ldy,
                       [&](const PromptInputs& t, int64_t begin, int64_t end, float* y) {
                         kernels.panelsTimesPrompt(w, begin / kPanel, (end + kPanel - 1) / kPanel, t, y, ldy);
                       });
        }
      }
    }
  });
}

TEST("prompt: part of a matrix's rows may be asked for, ending anywhere") {
  forTargets([](const Kernels& kernels) {
    check::Random random(3);
    const int64_t rows = 75, cols = 40, columns = 20;
    const RowMatrix w = makeRows(random.floats(rows * cols).data(), rows, cols, cols, Dtype::int4);
    const std::vector<float> x = random.floats(columns * cols);
    const PromptInputs prompt = promptOf(kernels, x.data(), cols, cols, columns);
    std::vector<float> all(static_cast<size_t>(columns * rows)), some(all.size(), kUntouched);
    kernels.rowsTimesPrompt(w, 0, rows, prompt, all.data(), rows);
    kernels.rowsTimesPrompt(w, kPanel, kPanel + 21, prompt, some.data(), rows);
    for (int64_t i = 0; i < columns * rows; ++i) {
      const bool asked = i % rows >= kPanel && i % rows < kPanel + 21;
      CHECK_EQUAL(some[static_cast<size_t>(i)], asked ? all[static_cast<size_t>(i)] : kUntouched);
    }
  });
}

TEST("prompt: an input that is not finite shows in every output of its column and in no other column") {
  forTargets([](const Kernels& kernels) {
    const std::vector<float> w(6 * 40, 1.0f);
    for (const Dtype dtype : kTypes) {
      const RowMatrix rows = makeRows(w.data(), 6, 40, 40, dtype);
      for (const float bad : {INFINITY, -INFINITY, NAN}) {
        std::vector<float> x(3 * 40, 1.0f), y(3 * 6);
        x[40 + 17] = bad;
        kernels.rowsTimesPrompt(rows, 0, 6, promptOf(kernels, x.data(), 40, 40, 3), y.data(), 6);
        for (size_t i = 0; i < y.size(); ++i) CHECK_EQUAL(std::isfinite(y[i]), i / 6 != 1);
      }
    }
  });
}
