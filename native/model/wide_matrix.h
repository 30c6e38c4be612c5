#pragma once

#include <cstdint>
#include <vector>

#include "cpu/bf16_panels.h"

namespace flrc {

// Weights W [rows, cols] for passes over whole sequences: f32, or rounded to bf16 both ways.
struct WideMatrix {
  int64_t rows = 0, cols = 0;
  std::vector<float> values;      // [rows, cols]; empty where rounded
  cpu::Bf16Panels forward, back;  // of x W^T and of g W; of nothing unless rounded

  bool rounded() const { return forward.outputs > 0; }

  // On the calling thread. y [tokens, rows] = x [tokens, cols] W^T, or added to y.
  void forwards(const float* x, int64_t tokens, bool adds, float* y) const;
  // dx [tokens, cols] = g [tokens, rows] W, or added to dx.
  void backwards(const float* g, int64_t tokens, bool adds, float* dx) const;
};

struct Rounding {
  const WideMatrix* from;  // f32
  WideMatrix* to;          // gets `forward` and `back`, and no `values`
};
// Spread over the pool; only where multipliesBf16() (linalg/bf16_gemm.h) says so.
void roundToBf16(const std::vector<Rounding>& matrices, int threads);

}  // namespace flrc
