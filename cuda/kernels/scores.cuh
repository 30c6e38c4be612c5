#pragma once

#include "kernels/calibrate.h"
#include "kernels/weights.cuh"

// The end of Fisher scores: tiles of a gradient G in the fragments of tensor cores, and the weights beside
// them, before scaling, which bf16 holds exactly.

namespace flrc::gpu {

// kRows x kColumns weights of a projection in shared memory. In boxes of 64 columns, as tensor copies lay them
// out: 16-byte pieces of row r are exchanged by xor r % 8, so that 8 rows of one column of pieces lie in
// different banks.
template <Dtype kType, int kRows, int kColumns>
struct WeightTile {
  static constexpr size_t kBytes = size_t{kRows} * kColumns * 2;

  // By `threads` threads, of which this is `thread`. Zeros outside the matrix.
  static FLRC_DEVICE void fetch(const FisherParams& p, int row, int column, Shared<uint8_t> to, int thread,
                                int threads) {
    constexpr int kPieces = kColumns / 8, kAhead = 4;
    for (int first = thread; first < kRows * kPieces; first += kAhead * threads) {
      Word4 words[kAhead];
      FLRC_UNROLL
      for (int a = 0; a < kAhead; ++a) {
        const int i = first + a * threads, r = row + i / kPieces, c = column + i % kPieces * 8;
        words[a] = Word4{0, 0, 0, 0};
        if (i < kRows * kPieces && r < p.g.width && c < p.x.width) words[a] = unscaled(p, r, c);
      }
      FLRC_UNROLL
      for (int a = 0; a < kAhead; ++a) {
        const int i = first + a * threads;
        if (i < kRows * kPieces) pointerCast<Word4>(to + placeOf(i / kPieces, i % kPieces))[0] = words[a];
      }
    }
  }

  // Of 16 rows and 16 columns: rows 0-7 and 8-15 of 8 columns, and of the 8 behind them.
  static FLRC_DEVICE void load(Shared<const uint8_t> from, int row, int column, uint32_t (&pairs)[4]) {
    const int lane = laneIndex();
    loadMatrices<false>(pairs,
                        pointerCast<const uint16_t>(from + placeOf(row + lane % 16, column / 8 + lane / 16)));
  }

 private:
  static FLRC_DEVICE int placeOf(int row, int piece) {
    return piece / 8 * kRows * 128 + row * 128 + ((piece % 8) ^ (row % 8)) * 16;
  }
  // 8 weights of a row from `column` on.
  static FLRC_DEVICE Word4 unscaled(const FisherParams& p, int64_t row, int column) {
    const WeightRow<kType> weights(p.weights, row, p.x.width);
    const int64_t at = gpu::placeOf(kType, column);
    if constexpr (kType == Dtype::bf16) {
      return pointerCast<const Word4>(weights.weights())[at / 8];
    } else {
      uint32_t words[4] = {}, zeros[4] = {}, pairs[4];
      if constexpr (kType == Dtype::int8) {
        words[0] = pointerCast<const uint32_t>(weights.weights())[at / 4];
        words[1] = pointerCast<const uint32_t>(weights.weights())[at / 4 + 1];
      } else {
        words[0] = pointerCast<const uint32_t>(weights.weights())[at / 8];
        const auto zero = static_cast<uint32_t>(weights.zero(column));
        FLRC_UNROLL
        for (int i = 0; i < 4; ++i) zeros[i] = kHalves128 | zero | zero << 16;
      }
      weightPairs<kType>(words, 0, zeros, pairs);
      return {pairs[0], pairs[1], pairs[2], pairs[3]};
    }
  }
};

// 16 rows by kColumns weights as a warp's fragments have them, in registers: pairs[i] beside the sums 2 i and
// 2 i + 1 of such a product.
template <Dtype kType, int kColumns>
struct WeightFragments {
  uint32_t pairs[kColumns / 4];

  // From a row and a column of the matrix on, the latter a multiple of kColumns. Zeros outside it.
  FLRC_DEVICE void load(const FisherParams& p, int row, int column) {
    static_assert(kColumns % stripWeights(kType) == 0);
    const int strip = column / stripWeights(kType);
    FLRC_UNROLL
    for (int line = 0; line < 2; ++line) {
      const int r = row + laneIndex() / 4 + 8 * line, left = r < p.g.width ? p.x.width - column : 0;
      const WeightRow<kType> own(p.weights, r, p.x.width);
      const Global<const uint8_t> weights =
          own.weights() + (strip * kStripBytes + (kType == Dtype::int4 ? 0 : kLaneBytes * (laneIndex() % 4)));
      FLRC_UNROLL
      for (int k = 0; k < kColumns; k += 8) {
        pairs[k / 4 + line] = 0;
        if (k < left) {
          pairs[k / 4 + line] = unscaled(weights, kType == Dtype::int4 ? own.zero(column + k) : 0, k);
        }
      }
    }
  }

 private:
  static constexpr int kLaneBytes = kType == Dtype::bf16 ? 4 : 2;

  // This lane's two of the eight weights from `k` on.
  static FLRC_DEVICE uint32_t unscaled(Global<const uint8_t> weights, int zero, int k) {
    const int64_t at = placeOf(kType, k) * groupBytes(kType) / kUnit;
    if constexpr (kType == Dtype::bf16) {
      return pointerCast<const uint32_t>(weights + at)[0];
    } else {
      uint32_t words[4] = {}, zeros[4] = {}, two[4];
      if constexpr (kType == Dtype::int8) {
        words[0] = pointerCast<const uint16_t>(weights + at)[0];
      } else {
        words[0] = pointerCast<const uint32_t>(weights + at)[0] >> 4 * (laneIndex() % 4);
        zeros[0] = kHalves128 | static_cast<uint32_t>(zero) * 0x10001u;
      }
      weightPairs<kType>(words, 0, zeros, two);
      return two[0];
    }
  }
};

// What this thread's weights in two rows of a fragment are scaled by, at a column of the matrix; 1 outside it.
template <Dtype kType>
FLRC_DEVICE void weightScales(const FisherParams& p, int row, int column, float (&scale)[2]) {
  FLRC_UNROLL
  for (int i = 0; i < 2; ++i) {
    scale[i] = 1;
    if constexpr (kType != Dtype::bf16) {
      const int r = row + laneIndex() / 4 + 8 * i;
      if (r < p.g.width && column < p.x.width) {
        scale[i] = WeightRow<kType>(p.weights, r, p.x.width).scale(column);
      }
    }
  }
}

// A thread's sums over the fragments that it is given.
template <Dtype kType>
struct ScoreSums {
  double products = 0, squares = 0, sizes = 0;

  // Two fragments of G side by side, 16 rows by 16 columns, and the weights in them.
  FLRC_DEVICE void add(const float* sums, const uint32_t* pairs, const float (&scale)[2]) {
    // Eight in f32, and then fp64: single ones would take longer than the product.
    float product8 = 0, square8 = 0, size8 = 0;
    FLRC_UNROLL
    for (int i = 0; i < 8; ++i) {
      const uint32_t pair = pairs[i / 2];
      const float weight = bitsToFloat(i % 2 ? pair & 0xffff0000u : pair << 16), value = sums[i];
      float product = value * weight;
      if constexpr (kType != Dtype::bf16) product *= scale[i / 2 % 2];
      product8 = fusedMultiplyAdd(product, product, product8);
      square8 = fusedMultiplyAdd(value, value, square8);
      size8 += fabsf(product);
    }
    products += static_cast<double>(product8);
    squares += static_cast<double>(square8);
    sizes += static_cast<double>(size8);
  }
};

}  // namespace flrc::gpu
