#pragma once

#include <cstdint>
#include <vector>

#include "linalg/symmetric.h"

// Plain fp64 linear algebra to check the library against; shares no code with it.
namespace reference {

// Row-major.
struct Matrix {
  int64_t rows = 0, cols = 0;
  std::vector<double> values;

  Matrix(int64_t r, int64_t c) : rows(r), cols(c), values(static_cast<size_t>(r * c)) {}
  double& at(int64_t i, int64_t j) { return values[static_cast<size_t>(i * cols + j)]; }
  double at(int64_t i, int64_t j) const { return values[static_cast<size_t>(i * cols + j)]; }
};

Matrix fromFloats(const float* values, int64_t rows, int64_t cols);
Matrix transpose(const Matrix& a);
Matrix product(const Matrix& a, const Matrix& b);
Matrix difference(const Matrix& a, const Matrix& b);
double norm(const Matrix& a);
double largest(const Matrix& a);
// Falling; one-sided Jacobi, which finds small values to high relative accuracy.
std::vector<double> singularValues(const Matrix& a);
// X^T X packed, as sums over the rows of X.
flrc::PackedSymmetric moment(const Matrix& x);

}  // namespace reference
