#include "reference.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace reference {

Matrix fromFloats(const float* values, int64_t rows, int64_t cols) {
  Matrix a(rows, cols);
  std::copy(values, values + rows * cols, a.values.begin());
  return a;
}

Matrix transpose(const Matrix& a) {
  Matrix t(a.cols, a.rows);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < a.cols; ++j) t.at(j, i) = a.at(i, j);
  }
  return t;
}

Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c(a.rows, b.cols);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t k = 0; k < a.cols; ++k) {
      for (int64_t j = 0; j < b.cols; ++j) c.at(i, j) += a.at(i, k) * b.at(k, j);
    }
  }
  return c;
}

Matrix difference(const Matrix& a, const Matrix& b) {
  Matrix c = a;
  for (size_t i = 0; i < c.values.size(); ++i) c.values[i] -= b.values[i];
  return c;
}

double norm(const Matrix& a) {
  double squares = 0;
  for (const double value : a.values) squares += value * value;
  return std::sqrt(squares);
}

double largest(const Matrix& a) {
  double most = 0;
  for (const double value : a.values) most = std::max(most, std::abs(value));
  return most;
}

std::vector<double> singularValues(const Matrix& a) {
  Matrix rows = a.rows <= a.cols ? a : transpose(a);
  const int64_t n = rows.rows, width = rows.cols;
  for (int sweep = 0; sweep < 60; ++sweep) {
    bool rotated = false;
    for (int64_t p = 0; p < n; ++p) {
      for (int64_t q = p + 1; q < n; ++q) {
        double* x = &rows.values[static_cast<size_t>(p * width)];
        double* y = &rows.values[static_cast<size_t>(q * width)];
        double xx = 0, yy = 0, xy = 0;
        for (int64_t i = 0; i < width; ++i) {
          xx += x[i] * x[i];
          yy += y[i] * y[i];
          xy += x[i] * y[i];
        }
        if (xy == 0 || std::abs(xy) <= 1e-15 * std::sqrt(xx * yy)) continue;
        rotated = true;
        const double zeta = (yy - xx) / (2 * xy);
        const double t = (zeta >= 0 ? 1 : -1) / (std::abs(zeta) + std::sqrt(1 + zeta * zeta));
        const double cosine = 1 / std::sqrt(1 + t * t), sine = cosine * t;
        for (int64_t i = 0; i < width; ++i) {
          const double old = x[i];
          x[i] = cosine * old - sine * y[i];
          y[i] = sine * old + cosine * y[i];
        }
      }
    }
    if (!rotated) break;
  }
  std::vector<double> values;
  for (int64_t p = 0; p < n; ++p) {
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += rows.at(p, i) * rows.at(p, i);
    values.push_back(std::sqrt(squares));
  }
  std::sort(values.begin(), values.end(), std::greater<>());
  return values;
}

flrc::PackedSymmetric moment(const Matrix& x) {
  flrc::PackedSymmetric packed(x.cols);
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t i = 0; i < x.cols; ++i) {
      for (int64_t j = 0; j <= i; ++j)
        packed.values[static_cast<size_t>(i * (i + 1) / 2 + j)] += x.at(t, i) * x.at(t, j);
    }
  }
  return packed;
}

}  // namespace reference
