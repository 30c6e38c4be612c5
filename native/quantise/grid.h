#pragma once

#include <cstdint>
#include <vector>

#include "tensor/matrix.h"

namespace flrc {

// The values that the weights of one group can take in storage (tensor/matrix.h): (q - zero) * scale.
struct Grid {
  uint16_t scaleBits = 0;  // bf16
  int zero = 0, least = 0, most = 0;

  double scale() const { return static_cast<double>(bf16ToFloat(scaleBits)); }
  double value(int q) const { return (q - zero) * scale(); }
};

// Grids to choose from for up to kGroup values: first the one that plain rounding takes (tensor/matrix.cc), for
// int4 then finer ones that clip the largest values. dtype: int8 or int4.
std::vector<Grid> candidateGrids(const double* values, int64_t count, Dtype dtype);

// A stored row of `cols` values, to be filled by storeGroup.
StoredRow emptyStoredRow(int64_t cols, Dtype dtype);
// Puts the grid and the q [count] of one group into a row.
void storeGroup(StoredRow& row, int64_t group, const Grid& grid, const int* q, int64_t count, Dtype dtype);

}  // namespace flrc
