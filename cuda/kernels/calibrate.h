#pragma once

// What calibration computes of one projection's inputs and output gradients (native/linalg has the CPU's).
// Both are bf16, [sequences][tokens][ld], ld a multiple of 8; products of them are exact in f32, and what is
// added up over sequences is added in fp64, in a fixed order. Where bf16 alone is not enough, a second matrix
// of the same layout holds what rounding to the first left: together they are f32's but for 2^-18 of it.

#include "kernels/device.cuh"
#include "tensor/dtype.h"

namespace flrc::gpu {

struct Activations {
  Global<const uint16_t> data;
  int64_t ld;
  int width;
};

struct Passage {
  int sequences, tokens;
};

// Fisher scores: sums[0] += sum (G_s o W)^2, sums[1] += sum G_s^2, sums[2] += sum |G_s o W|, over all sequences
// s, with G_s = sum over the sequence's tokens of g x^T. Tiles of G_s live in registers and are reduced there.
struct FisherParams {
  Activations g, x;  // widths m and n
  Passage passage;
  Global<const uint8_t> weights;  // rows of W (layout.h)
  Global<double> partial;         // working memory: [fisherPartials()]
  Global<double> sums;            // [3]
};
int fisherPartials(const FisherParams& params);
// The part of so many rows of G from `first`, a multiple of 8, on; of one sequence its partials are no more
// than the whole's.
FisherParams rowsOf(Dtype dtype, const FisherParams& params, int first, int count);
// warpgroups: multiprocessors that have warpgroup products (DeviceLimits), here as below.
void launchFisher(Stream stream, Dtype dtype, const FisherParams& params, int warpgroups);

// sum [n (n + 1) / 2] += sum over all tokens of x x^T: the lower triangle, packed by rows. With a second half
// all four products are made: without that of the second halves, small as it is, the sum could have eigenvalues
// below zero, and by far more than the jitter that whoever inverts it adds.
struct MomentParams {
  Activations x;
  Global<const uint16_t> low;  // what x left, or null
  Passage passage;
  Global<double> sum;
};
void launchMoment(Stream stream, const MomentParams& params, int warpgroups);

// Splits f32 rows in two bf16 matrices; with no place for the second, rounds them.
struct SplitParams {
  Global<const float> values;  // [rows][width]
  int rows, width;
  int64_t ld;                  // of the halves, a multiple of 8
  Global<uint16_t> high, low;  // [rows][ld]
  // What each row is multiplied by before, or null.
  Global<const float> factors = nullptr;
};
void launchSplit(Stream stream, const SplitParams& params);

// Rows of weights (layout.h) as two bf16 matrices, whose sum they are exactly.
struct WidenParams {
  Global<const uint8_t> data;
  int first, rows, width;  // from a row on, so many
  int64_t ld;
  Global<uint16_t> high, low;  // [rows][ld]
};
void launchWiden(Stream stream, Dtype dtype, const WidenParams& params);

// out [tokens][rows] = x F^T for F [rows][ld] in two halves, or in one; or back, x F for F [x.width][ld] of so
// many columns. Of x's second half only the product with F's first is made: the other is as small as what
// halves leave.
struct ThinProductParams {
  Activations x;
  Global<const uint16_t> xLow;       // what x left, or null
  int tokens;                        // of all sequences
  Global<const uint16_t> high, low;  // low: null for one half
  int64_t ld;
  int rows;
  Global<float> out;
  int64_t outLd;  // of its rows
  bool back = false;
  bool adds = false;  // to what is there
};
void launchThinProduct(Stream stream, const ThinProductParams& params, int warpgroups);

// Truncation curve (linalg/curves.h): curve[r] += 1/2 sum over tokens of (whole_t - sum over j < r of u_tj
// v_tj)^2 for r = 0..rank. Summed from the last rank, so that nothing cancels.
struct CurveParams {
  Global<const float> u, v;   // [tokens][rank]: the thin products of g with U and of x with V
  Global<const float> whole;  // [tokens]: g . W x; null: the sum over all ranks
  int tokens, rank;
  Global<double> partial;  // working memory: [kCurveBlocks][rank + 1]
  Global<double> curve;    // [rank + 1]
};
inline constexpr int kCurveBlocks = 64;
// Shared memory that a block needs.
size_t curveSharedBytes(int rank);
void launchCurve(Stream stream, const CurveParams& params);

// out[t] = g_t . y_t, in f32.
struct DotParams {
  Global<const float> g, y;  // [tokens][width]
  int tokens, width;
  Global<float> out;
};
void launchDots(Stream stream, const DotParams& params);

}  // namespace flrc::gpu
