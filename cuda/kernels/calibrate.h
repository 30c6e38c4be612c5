#pragma once

// What calibration computes of one projection's inputs and output gradients (native/calibrate has the CPU's).
// Both come from the forward and backward pass as bf16, [sequences][tokens][ld], ld a multiple of 8; products
// of them are exact in f32, and what is added up over sequences is added in fp64, in a fixed order.

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
  Global<const uint16_t> scale;
  Global<const uint8_t> zero;
  Global<double> partial;  // working memory: [fisherPartials()]
  Global<double> sums;     // [3]
};
int fisherPartials(const FisherParams& params);
// warpgroups: multiprocessors that have warpgroup products (DeviceLimits), here as below.
void launchFisher(Stream stream, Dtype dtype, const FisherParams& params, int warpgroups);

// sum [n (n + 1) / 2] += sum over all tokens of x x^T: the lower triangle, packed by rows.
struct MomentParams {
  Activations x;
  Passage passage;
  Global<double> sum;
};
void launchMoment(Stream stream, const MomentParams& params, int warpgroups);

// Gradients with each token's norm brought within .1 and 10 times the mean norm of its sequence
// (calibrate/moments.h), as the moment of gradients wants them.
struct ClipParams {
  Activations g;
  Passage passage;
  Global<double> norms;      // working memory: [sequences][tokens]
  Global<uint16_t> clipped;  // as g
};
void launchClip(Stream stream, const ClipParams& params);

// out [tokens][rows] = x F^T for factors F [rows][ld] given as the sum of two bf16 matrices (splitFactors),
// which is f32's F but for 2^-17 of it.
struct FactorParams {
  Global<const float> factors;  // [rows][width]
  int rows, width;
  int64_t ld;                  // of the halves, a multiple of 8
  Global<uint16_t> high, low;  // [rows][ld]
};
void launchSplitFactors(Stream stream, const FactorParams& params);

struct ThinProductParams {
  Activations x;
  int tokens;  // of all sequences
  Global<const uint16_t> high, low;
  int64_t ld;
  int rows;
  Global<float> out;
};
void launchThinProduct(Stream stream, const ThinProductParams& params);

// Truncation curve (calibrate/curves.h): curve[r] += 1/2 sum over tokens of (whole_t - sum over j < r of u_tj
// v_tj)^2 for r = 0..rank. Summed from the last rank, so that nothing cancels.
struct CurveParams {
  Global<const float> u, v;   // [tokens][rank]: the thin products of g with U and of x with V
  Global<const float> whole;  // [tokens]: g . W x; null: the sum over all ranks
  int tokens, rank;
  Global<double> partial;  // working memory: [kCurveBlocks][rank + 1]
  Global<double> curve;    // [rank + 1]
};
inline constexpr int kCurveBlocks = 64;
void launchCurve(Stream stream, const CurveParams& params);

// out[t] = g_t . y_t, y [tokens][y width] in f32.
struct DotParams {
  Activations g;
  int tokens;
  Global<const float> y;
  Global<float> out;
};
void launchDots(Stream stream, const DotParams& params);

}  // namespace flrc::gpu
