#include "cpu/row_inputs.h"

#include "cpu/kernels.h"

namespace flrc::cpu {

void setInputs(const Kernels& kernels, const float* x, int64_t ldx, int64_t cols, int columns, Dtype dtype,
               RowInputs& inputs) {
  inputs.x = x;
  inputs.ldx = ldx;
  inputs.columns = columns;
  if (dtype != Dtype::int8 && dtype != Dtype::int4) return;
  inputs.groups = (cols + kGroup - 1) / kGroup;
  const auto all = static_cast<size_t>(columns * inputs.groups);
  inputs.rounded.resize(all);
  inputs.scale.resize(all);
  inputs.sum.resize(all);
  for (int c = 0; c < columns; ++c) {
    const int64_t at = c * inputs.groups;
    kernels.roundInputs(x + c * ldx, cols, dtype, inputs.rounded.data() + at, inputs.scale.data() + at,
                        inputs.sum.data() + at);
  }
}

}  // namespace flrc::cpu
