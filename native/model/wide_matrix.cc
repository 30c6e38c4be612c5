#include "model/wide_matrix.h"

#include "core/thread_pool.h"
#include "cpu/kernels.h"
#include "linalg/bf16_gemm.h"
#include "linalg/gemm.h"

namespace flrc {

void WideMatrix::forwards(const float* x, int64_t tokens, bool adds, float* y) const {
  if (rounded()) {
    bf16Times(x, cols, tokens, forward, adds, y, rows);
  } else {
    gemm(false, true, tokens, rows, cols, 1.0f, x, cols, values.data(), cols, adds ? 1.0f : 0.0f, y, rows);
  }
}

void WideMatrix::backwards(const float* g, int64_t tokens, bool adds, float* dx) const {
  if (rounded()) {
    bf16Times(g, rows, tokens, back, adds, dx, cols);
  } else {
    gemm(false, false, tokens, cols, rows, 1.0f, g, rows, values.data(), cols, adds ? 1.0f : 0.0f, dx, cols);
  }
}

void roundToBf16(const std::vector<Rounding>& matrices, int threads) {
  struct Task {
    Rounding matrix;
    bool back;
    int64_t panel;
  };
  std::vector<Task> tasks;
  for (const Rounding& matrix : matrices) {
    const auto [from, to] = matrix;
    *to = {from->rows, from->cols, {}, {}, {}};
    if (from->rows == 0 || from->cols == 0) continue;
    cpu::resize(to->forward, from->rows, from->cols);
    cpu::resize(to->back, from->cols, from->rows);
    for (int64_t i = 0; i < to->forward.panels(); ++i) tasks.push_back({matrix, false, i});
    for (int64_t i = 0; i < to->back.panels(); ++i) tasks.push_back({matrix, true, i});
  }
  ThreadPool::shared().parallelFor(std::ssize(tasks), threads, [&](int64_t i) {
    const auto& [matrix, back, panel] = tasks[static_cast<size_t>(i)];
    const float* values = matrix.from->values.data();
    if (back) {
      cpu::kernels().setPanelOfRows(values, matrix.from->cols, panel, matrix.to->back);
    } else {
      cpu::kernels().setPanelOfColumns(values, matrix.from->cols, panel, matrix.to->forward);
    }
  });
}

}  // namespace flrc
