#pragma once

#include <cstdint>

#include "cpu/bf16_panels.h"

namespace flrc {

// Products of f32 matrices whose values are rounded to bf16, their sums in f32, on the calling thread. Only
// where multipliesBf16() says so.
bool multipliesBf16();

// W of `inputs` and `outputs`, from f32 [inputs, outputs], or from its transpose.
void setRows(const float* w, int64_t ldw, int64_t inputs, int64_t outputs, cpu::Bf16Panels& to);
void setColumns(const float* w, int64_t outputs, int64_t inputs, cpu::Bf16Panels& to);

// y [columns, outputs] = x [columns, inputs] W, or added to y.
void bf16Times(const float* x, int64_t ldx, int64_t columns, const cpu::Bf16Panels& w, bool adds, float* y,
               int64_t ldy);

// C [m, outputs] = A^T W, or added to C, where A is [inputs, m].
void bf16TransposedTimes(int64_t m, const float* a, int64_t lda, const cpu::Bf16Panels& w, bool adds, float* c,
                         int64_t ldc);

// C [m, n] = A^T B, or added to C, where A is [k, m] and B is [k, n].
void bf16Products(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                  bool adds, float* c, int64_t ldc);

}  // namespace flrc
