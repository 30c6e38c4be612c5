#pragma once

#include <cstdint>
#include <vector>

#include "core/job.h"
#include "linalg/pivot.h"
#include "quantise/feedback.h"

namespace flrc {

// The factors of one block on their grids: P [s, n], C [s, m - s].
struct RoundedBlock {
  RoundedMatrix p, c;
};

// Rounds a block's P and C so that their product, not each of them, is near to what it was. What rounding did
// to P is mended by the best C for the rounded P (least squares in the input's metric), rounded in turn in the
// metric P A P^T that its own errors are seen through; then P is solved for and rounded again for that C, twice
// over. The best of these and of plain rounding is taken: the product's error in the metric is never above
// plain rounding's. A block without pivots is a pair of plain factors, V [s, n] as P and U [s, m] as C. `owed`
// [m, n] is what the blocks below lack of what they should compute: it is made up for here, and replaced by
// what is lacking then.
RoundedBlock roundFactors(const PivotedBlock& block, Dtype dtype, const Metric& input,
                          std::vector<double>& owed, const Job& job);

// Bytes that roundFactors holds for a block [m, n] of `rank` ranks, the metric and what is owed included.
int64_t roundBytes(int64_t m, int64_t n, int64_t rank);

}  // namespace flrc
