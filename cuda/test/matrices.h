#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "check.h"

// fp64 matrices of tests, row-major, of a batch one behind the other.

namespace test {

inline std::vector<double> randoms(check::Random& random, int64_t count) {
  std::vector<double> values(static_cast<size_t>(count));
  for (double& value : values) value = random.normal();
  return values;
}

// One matrix of a batch.
struct View {
  const double* data;
  int rows, cols;
  double at(int i, int j) const {
    return data[static_cast<size_t>(i) * static_cast<size_t>(cols) + static_cast<size_t>(j)];
  }
};

inline View view(const std::vector<double>& all, int matrix, int rows, int cols) {
  return {all.data() + static_cast<size_t>(matrix) * static_cast<size_t>(rows) * static_cast<size_t>(cols),
          rows, cols};
}

inline double norm(const View& a) {
  double squares = 0;
  for (int i = 0; i < a.rows * a.cols; ++i) squares += a.data[i] * a.data[i];
  return std::sqrt(squares);
}

inline double rowProduct(const View& a, int i, const View& b, int j) {
  double sum = 0;
  for (int k = 0; k < a.cols; ++k) sum += a.at(i, k) * b.at(j, k);
  return sum;
}

}  // namespace test
