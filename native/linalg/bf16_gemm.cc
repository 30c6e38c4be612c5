#include "linalg/bf16_gemm.h"

#include "cpu/kernels.h"

namespace flrc {
namespace {

// Of this thread, so that its pages are asked for once.
cpu::PromptInputs& promptMemory() {
  thread_local cpu::PromptInputs memory;
  return memory;
}

}  // namespace

bool multipliesBf16() { return cpu::kernels().bf16PanelsTimes != nullptr; }

void setRows(const float* w, int64_t ldw, int64_t inputs, int64_t outputs, cpu::Bf16Panels& to) {
  cpu::resize(to, outputs, inputs);
  for (int64_t panel = 0; panel < to.panels(); ++panel) cpu::kernels().setPanelOfRows(w, ldw, panel, to);
}

void setColumns(const float* w, int64_t outputs, int64_t inputs, cpu::Bf16Panels& to) {
  cpu::resize(to, outputs, inputs);
  for (int64_t panel = 0; panel < to.panels(); ++panel) cpu::kernels().setPanelOfColumns(w, inputs, panel, to);
}

void bf16Times(const float* x, int64_t ldx, int64_t columns, const cpu::Bf16Panels& w, bool adds, float* y,
               int64_t ldy) {
  const cpu::Kernels& kernels = cpu::kernels();
  cpu::PromptInputs& inputs = promptMemory();
  cpu::resize(inputs, columns, w.inputs);
  for (int64_t tile = 0; tile < inputs.tiles(); ++tile) {
    cpu::setPromptTile(kernels, x, ldx, w.inputs, tile, inputs);
  }
  kernels.bf16PanelsTimes(w, 0, w.panels(), inputs, adds, y, ldy);
}

void bf16TransposedTimes(int64_t m, const float* a, int64_t lda, const cpu::Bf16Panels& w, bool adds, float* c,
                         int64_t ldc) {
  const cpu::Kernels& kernels = cpu::kernels();
  cpu::PromptInputs& inputs = promptMemory();
  cpu::resize(inputs, m, w.inputs);
  for (int64_t tile = 0; tile < inputs.tiles(); ++tile) {
    kernels.roundPromptOfRows(a, lda, w.inputs, tile, inputs);
  }
  kernels.bf16PanelsTimes(w, 0, w.panels(), inputs, adds, c, ldc);
}

void bf16Products(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                  bool adds, float* c, int64_t ldc) {
  thread_local cpu::Bf16Panels weights;
  setRows(b, ldb, k, n, weights);
  bf16TransposedTimes(m, a, lda, weights, adds, c, ldc);
}

}  // namespace flrc
