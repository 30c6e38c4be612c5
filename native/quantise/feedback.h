#pragma once

#include <cstdint>
#include <vector>

#include "core/job.h"
#include "quantise/metric.h"
#include "tensor/matrix.h"

namespace flrc {

// A matrix on grids of int8 or int4: its rows as they are stored, and their values [rows, cols].
struct RoundedMatrix {
  std::vector<StoredRow> rows;
  std::vector<double> values;
};

// Rounds W [rows, cols] so that the error E is small in tr(L E R E^T), L `left` and R `right` (null: the
// identity). Entry by entry, each to the value nearest to what makes up for all errors so far: with `right`
// alone this is GPTQ (Frantar et al. 2023, arXiv 2210.17323) or OBQ in a fixed order, with both its form for a
// Kronecker product (as in YAQA, arXiv 2505.22988), which is Babai's nearest plane of the lattice. A group's
// grid is chosen when its turn comes, by trying the candidates. With neither: the nearest value on the best of
// the candidate grids. E_NUMERIC for a W that is not finite.
RoundedMatrix roundAgainst(const std::vector<double>& w, int64_t rows, int64_t cols, Dtype dtype,
                           const Metric* left, const Metric* right, const Job& job);

// Plain rounding, as makeRows does it.
RoundedMatrix roundPlain(const std::vector<double>& w, int64_t rows, int64_t cols, Dtype dtype);

// Rounds a dense W against its input's moment; no row's error is larger in the metric than plain rounding's.
RoundedMatrix roundRows(const std::vector<double>& w, int64_t rows, int64_t cols, Dtype dtype,
                        const Metric& input, const Job& job);

}  // namespace flrc
