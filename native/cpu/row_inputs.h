#pragma once

#include <cstdint>
#include <vector>

#include "tensor/dtype.h"

namespace flrc::cpu {

struct Kernels;

// kGroup values of 16 bits, two in a word, in the order in which kernels unpack weights.
struct alignas(64) RoundedGroup {
  int32_t words[kGroup / 2];
};

// The columns x that rows are multiplied with, in the form that their type wants. f32 and bf16 take x as it is.
// int8 and int4 are multiplied as integers, for which every group of kGroup values of x is rounded to 16 bits:
// x = value * scale to within 1/65278 of the group's largest value. A column's form does not depend on the
// others.
struct RowInputs {
  const float* x = nullptr;  // [columns][ldx]
  int64_t ldx = 0;
  int columns = 0;
  int64_t groups = 0;                 // of a column
  std::vector<RoundedGroup> rounded;  // [columns][groups]
  std::vector<float> scale, sum;      // [columns][groups]; sum: of a group's values, int4 only
};

// Fills `inputs` with `cols` values of each column for weights of `dtype`; x stays the caller's and must
// outlive them. columns <= kMaxColumns.
void setInputs(const Kernels& kernels, const float* x, int64_t ldx, int64_t cols, int columns, Dtype dtype,
               RowInputs& inputs);

}  // namespace flrc::cpu
