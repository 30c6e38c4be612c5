#include "quantise/grid.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace flrc {
namespace {

// Shares of the range that an int4 grid may span: what it clips can be less than what it gains on all others.
constexpr double kSpans[] = {1, 0.95, 0.9, 0.85, 0.8};

Grid int4Grid(double low, double high) {
  Grid grid;
  grid.most = 15;
  grid.scaleBits = floatToBf16(static_cast<float>(high) / 15 - static_cast<float>(low) / 15);
  const double scale = grid.scale();
  grid.zero = scale > 0 ? static_cast<int>(std::clamp(std::nearbyint(-low / scale), 0.0, 15.0)) : 0;
  return grid;
}

Grid int8Grid(double largest) {
  Grid grid;
  grid.least = -127;
  grid.most = 127;
  grid.scaleBits = floatToBf16(static_cast<float>(largest) / 127);
  return grid;
}

}  // namespace

std::vector<Grid> candidateGrids(const double* values, int64_t count, Dtype dtype) {
  double low = 0, high = 0;
  for (int64_t i = 0; i < count; ++i) {
    low = std::min(low, values[i]);
    high = std::max(high, values[i]);
  }
  if (dtype == Dtype::int8) return {int8Grid(std::max(-low, high))};
  std::vector<Grid> grids;
  for (const double span : kSpans) grids.push_back(int4Grid(low * span, high * span));
  return grids;
}

StoredRow emptyStoredRow(int64_t cols, Dtype dtype) {
  const auto groups = static_cast<size_t>((cols + kGroup - 1) / kGroup);
  StoredRow row;
  row.data.resize(storedRowBytes(dtype, cols));
  row.scale.resize(groups * 2);
  row.zero.resize(dtype == Dtype::int4 ? groups : 0);
  return row;
}

void storeGroup(StoredRow& row, int64_t group, const Grid& grid, const int* q, int64_t count, Dtype dtype) {
  std::memcpy(row.scale.data() + group * 2, &grid.scaleBits, 2);
  const int64_t first = group * kGroup;
  if (dtype == Dtype::int8) {
    for (int64_t i = 0; i < count; ++i) row.data[static_cast<size_t>(first + i)] = static_cast<uint8_t>(q[i]);
    return;
  }
  row.zero[static_cast<size_t>(group)] = static_cast<uint8_t>(grid.zero);
  for (int64_t i = 0; i < count; ++i) {
    row.data[static_cast<size_t>((first + i) / 2)] |= static_cast<uint8_t>(q[i] << (4 * (i % 2)));
  }
}

}  // namespace flrc
