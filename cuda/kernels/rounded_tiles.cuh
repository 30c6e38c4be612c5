#pragma once

#include "kernels/weights.cuh"

// Products on tensor cores of f32 values rounded to bf16, summed in f32. A warp has 16 rows of the result.

namespace flrc::gpu {

// [rows][ld] of bf16 in device memory.
struct RoundedMatrix {
  Global<const uint16_t> values;
  int64_t ld;
};

// kRows x kDim of them in shared memory. 16-byte pieces of row r are exchanged by xor r % 8, so that 8 rows of
// one column of pieces lie in different banks.
template <int kDim, int kRows>
struct RoundedTile {
  static constexpr int kValues = kDim * kRows;

  static FLRC_DEVICE int placeOf(int row, int dim) { return row * kDim + ((dim / 8) ^ (row % 8)) * 8; }
  // The same of a line of eight at `row`, for dims of which one is a multiple of 16 and the other 0 or 8: the
  // parts that lanes have are made once.
  static FLRC_DEVICE int placeOf(int row, int line, int dim, int laneDim) {
    return (row + line) * kDim + (dim ^ laneDim ^ line * 8);
  }

  // Starts fetching `dims` values, a multiple of 8, of rows [row, row + kRows); zeros outside `rows` rows.
  template <int kThreads>
  static FLRC_DEVICE void fetch(const RoundedMatrix& from, int row, int rows, int dims, Shared<uint16_t> to) {
    constexpr int kPieces = kDim / 8;
    for (int i = threadIndex(); i < kRows * kPieces; i += kThreads) {
      const int line = i / kPieces, dim = i % kPieces * 8;
      const bool there = row + line < rows && dim < dims;
      const int64_t at = there ? (row + line) * from.ld + dim : 0;
      copyAsync(pointerCast<uint8_t>(to + placeOf(line, dim)), pointerCast<const uint8_t>(from.values + at),
                there ? 16 : 0);
    }
  }
};

// sums += A B^T for 16 rows of A from `row` on and the kColumns rows of B.
template <int kDim, int kRows, int kColumns>
FLRC_DEVICE void multiplyRows(Shared<const uint16_t> a, int row, Shared<const uint16_t> b,
                              float (&sums)[kColumns / 8][4]) {
  using Left = RoundedTile<kDim, kRows>;
  using Right = RoundedTile<kDim, kColumns>;
  const int lane = laneIndex(), matrix = lane / 8, line = lane % 8;
  FLRC_UNROLL_BY(2)
  for (int dim = 0; dim < kDim; dim += 16) {
    uint32_t left[4];
    loadMatrices<false>(left, a + Left::placeOf(row + matrix % 2 * 8, line, dim, matrix / 2 * 8));
    FLRC_UNROLL
    for (int column = 0; column < kColumns; column += 16) {
      uint32_t right[4];
      loadMatrices<false>(right, b + Right::placeOf(column + matrix / 2 * 8, line, dim, matrix % 2 * 8));
      FLRC_UNROLL
      for (int i = 0; i < 2; ++i)
        multiplyFragments(sums[column / 8 + i], left, {right[2 * i], right[2 * i + 1]});
    }
  }
}

// out += W B for W [16][kRows], sums of such a product, and kOut columns of B [kRows][kDim] from `dim` on.
template <int kDim, int kRows, int kOut>
FLRC_DEVICE void multiplySums(const float (&weights)[kRows / 8][4], Shared<const uint16_t> b, int dim,
                              float (&out)[kOut / 8][4]) {
  using Right = RoundedTile<kDim, kRows>;
  const int lane = laneIndex(), matrix = lane / 8, line = lane % 8;
  FLRC_UNROLL
  for (int row = 0; row < kRows; row += 16) {
    // Sums of one product lie as the left side of the next wants them.
    uint32_t left[4];
    FLRC_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float(&pair)[4] = weights[row / 8 + i / 2];
      left[i] = roundHalves(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
    }
    FLRC_UNROLL
    for (int column = 0; column < kOut; column += 16) {
      uint32_t right[4];
      loadMatrices<true>(right, b + Right::placeOf(row + matrix % 2 * 8, line, dim + column, matrix / 2 * 8));
      FLRC_UNROLL
      for (int i = 0; i < 2; ++i)
        multiplyFragments(out[column / 8 + i], left, {right[2 * i], right[2 * i + 1]});
    }
  }
}

}  // namespace flrc::gpu
