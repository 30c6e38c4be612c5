#pragma once

#include <cstdint>
#include <vector>

#include "core/job.h"
#include "linalg/symmetric.h"

namespace flrc {

// How errors of the n entries of a row or column are weighed against each other: a positive semidefinite
// matrix, made ready for error feedback.
struct Metric {
  std::vector<int64_t> order;  // [n]: in which entries are rounded, heaviest first
  std::vector<double> root;  // R, upper triangular, row-major [n, n]: the damped matrix in that order is R R^T

  int64_t size() const { return static_cast<int64_t>(order.size()); }
};

// `damping`, relative, is added to each diagonal value: calibration text is finite. A matrix of zeros weighs
// all entries alike. Entries come in runs of `together` (1, or kGroup where a group shares a grid), which stay
// whole.
Metric makeMetric(const PackedSymmetric& matrix, double damping, int64_t together, const Job& job = Job());

// X R with the columns of X in the metric's order, [rows, n]: its squares sum to the weighed size of X.
std::vector<double> weighed(const Metric& metric, int64_t rows, const std::vector<double>& x);

// The matrix's inverse times X [n, cols], in place.
void solve(const Metric& metric, int64_t cols, std::vector<double>& x);

}  // namespace flrc
