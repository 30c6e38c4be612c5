#pragma once

#include <cstdint>

#include "tensor/matrix.h"

namespace flrc::cpu {

// The most columns (tokens) a decode kernel takes at once; a column's result is bitwise the same alone and
// in any batch.
inline constexpr int kMaxColumns = 16;

// Kernels of one instruction set. All activations are f32; `x` has columns at stride ldx. No kernel starts
// threads: callers split rows or panels, and the result does not depend on the split.
struct Kernels {
  const char* target;

  // y[c * ldy + r] = sum_i w[r, i] x[c * ldx + i], r in [rowBegin, rowEnd), c < columns <= kMaxColumns.
  // Reads exactly w.cols values of each column of x.
  void (*rowsTimes)(const RowMatrix& w, int64_t rowBegin, int64_t rowEnd, const float* x, int64_t ldx,
                    int columns, float* y, int64_t ldy);

  // y[c * ldy + o] = sum_{rankBegin <= j < rankEnd} w[j, o] t[c * ldt + j - rankBegin], for the outputs o of
  // panels [panelBegin, panelEnd), o < w.outputs (padding is never written).
  void (*panelsTimes)(const PanelMatrix& w, int64_t panelBegin, int64_t panelEnd, int64_t rankBegin,
                      int64_t rankEnd, const float* t, int64_t ldt, int columns, float* y, int64_t ldy);

  // y[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i]; y may be x.
  void (*rmsNorm)(const float* x, const float* weight, float eps, int64_t n, float* y);
  // y[i] = silu(gate[i]) * up[i]; y may be gate or up.
  void (*siluTimes)(const float* gate, const float* up, int64_t n, float* y);
  // dGate and dUp of y = silu(gate) * up, given dy. dGate may be gate, dUp may be up.
  void (*siluTimesBackward)(const float* gate, const float* up, const float* dy, int64_t n, float* dGate,
                            float* dUp);
  // x[i] += y[i]
  void (*add)(const float* y, int64_t n, float* x);
  // In place softmax of n values after multiplying by `scale`; returns log(sum(exp)) of the scaled values.
  float (*softmax)(float* x, int64_t n, float scale);
  // sum_i x[i] y[i]
  float (*dot)(const float* x, const float* y, int64_t n);
  // y[i] += a x[i]
  void (*axpy)(float a, const float* x, int64_t n, float* y);
  // sums[0] += sum (g w)^2, sums[1] += sum g^2, sums[2] += sum |g w| over n values, accumulated in fp64.
  void (*fisherReduce)(const float* g, const float* w, int64_t n, double* sums);
  // Rows [rowBegin, rowEnd) of w as f32, row-major with leading dimension ld (the tiles of a prefill).
  void (*dequantiseRows)(const RowMatrix& w, int64_t rowBegin, int64_t rowEnd, float* out, int64_t ld);
  // Ranks [rankBegin, rankEnd) of panel p as f32: out[(j - rankBegin) * ld + o], o < kPanel.
  void (*dequantisePanel)(const PanelMatrix& w, int64_t panel, int64_t rankBegin, int64_t rankEnd, float* out,
                          int64_t ld);
};

// The best kernels this processor runs, found once through cpuid.
const Kernels& kernels();

// Every set this processor runs, best first, for tests and benchmarks.
int kernelTargets(const Kernels** out, int capacity);

}  // namespace flrc::cpu
