#pragma once

#include "runtime/gemm.h"
#include "runtime/steps.h"

namespace flrc::gpu {

// A prompt's pieces: many consecutive tokens of one sequence. Weights in bf16 are multiplied by cuBLASLt where
// it is there, inputs rounded to bf16; all others by the decoding kernels, kBackendRows tokens at a time.
class PrefillSteps : public Steps {
 public:
  // For up to `columns` tokens, and as many more as fill a piece.
  PrefillSteps(DeviceModel& model, int64_t columns);

  // Of products by cuBLASLt (Gemm::plans).
  size_t plans() const { return gemm_.plans(); }

 private:
  void multiply(const std::vector<PlannedLinear>& linears, Global<const float> x, int64_t columns) override;
  void attend(int64_t layer, const RotateParams& heads, int64_t columns) override;
  // y = W x of one projection, from input_. Throw Unserved.
  void multiply(const PlannedLinear& linear, int64_t columns);
  void multiplyDense(const PlannedLinear& linear, int64_t columns);
  void multiplyPlain(const PlannedLinear& linear, int64_t columns);
  void multiplyPivoted(const PlannedLinear& linear, int64_t columns);
  // x [columns][width] to bf16.
  void round(Global<const float> x, int64_t width, int64_t columns, Buffer<uint16_t>& to);
  // The first `rank` rows times input_, to t_ from column t on.
  void project(const RowWeights& rows, int64_t rank, int64_t t, int64_t tWidth, int64_t columns);
  // Units times latent_ from column t on, to y.
  void expand(const PanelWeights& panels, int64_t rank, int64_t t, int64_t ldt, Global<float> y, int64_t ldy,
              bool add, int64_t columns);
  // y = bias + the sum of what these blocks have left in t_ and u_.
  void gather(const PlannedLinear& linear, int64_t blocks, int64_t columns, const Widths& widths);

  Gemm gemm_;
  // What is multiplied, t of a projection's blocks, and what rounding leaves, which nobody needs.
  Buffer<uint16_t> input_, latent_, remainder_;
  Buffer<float> t_, u_;  // of one projection, all columns
};

}  // namespace flrc::gpu
