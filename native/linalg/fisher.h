#pragma once

#include <cstdint>

namespace flrc {

// The importance scores of one projection and one sequence, with G = sum over its tokens of g x^T.
struct FisherScore {
  double weighted = 0;  // sum (G o W)^2, FLRC's score in our reading (design 3)
  double gradient = 0;  // sum G^2, the Palu / FWSVD form
  double taylor = 0;    // sum |G o W|

  FisherScore& operator+=(const FisherScore& other);
};

// x: [tokens, n], g: [tokens, m], w: [m, n]. G is formed in tiles of rows and reduced at once, never stored.
// Where it `rounds`, x and g are rounded to bf16 (linalg/bf16_gemm.h).
FisherScore fisherScore(const float* x, const float* g, const float* w, int64_t tokens, int64_t m, int64_t n,
                        bool rounds);

}  // namespace flrc
