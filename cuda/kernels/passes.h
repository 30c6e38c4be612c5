#pragma once

// What the passes of a calibration do between their products, over all tokens of a sequence from position 0 on
// (native/model/layer_pass.h has the CPU's). Everything is f32, row-major, at 16 bytes; each row's result is
// bitwise the same whatever else there is. Norms of whole rows, x += and activation(gate) * up are launchNorm
// and launchGated (kernels/decode.h), which take any number of rows.

#include "kernels/decode.h"

namespace flrc::gpu {

// dx of y = x / sqrt(mean(x^2) + eps) * weight, written or added to what is there. dx may be dy where it is not
// added to. Rows of up to 16384 values.
struct NormBackwardParams {
  Global<const float> x, dy;   // [rows][width]
  Global<const float> weight;  // [width]
  Global<float> dx;            // [rows][width]
  float eps;
  int width;
  bool adds;
};
void launchNormBackward(Stream stream, const NormBackwardParams& params, int rows);

// Heads of queries or of keys, [tokens][heads][headDim]: y = each over the root of its mean square, times
// `norm` (null: as it is), turned to its token's position and times `scale`. y may be x. headDim is a multiple
// of 8, at most 256.
struct TurnParams {
  Global<const float> x;
  Global<float> y;
  Global<const float> norm;  // [headDim] or null
  float eps;
  Global<const float> cosine, sine;  // [positions][pairs], as of RotateParams
  int tokens, heads, headDim, pairs;
  float scale = 1;
};
void launchTurn(Stream stream, const TurnParams& params);

// From dy at its result to dx; x, before norm and rotation, is read only where there is a norm. dx may be dy.
struct TurnBackwardParams {
  TurnParams turn;  // y is not used
  Global<const float> dy;
  Global<float> dx;
};
void launchTurnBackward(Stream stream, const TurnBackwardParams& params);

// dGate and dUp of y = activation(gate) * up. dGate may be gate, and dUp may be up.
struct GatedBackwardParams {
  Global<const float> gate, up, dy;
  Global<float> dGate, dUp;
  int64_t count;
  Activation activation = Activation::silu;
};
void launchGatedBackward(Stream stream, const GatedBackwardParams& params);

// x [rows][width] = scale * x + add, [rows][width], or [width] to every row where it is a bias.
struct AddParams {
  Global<float> x;
  Global<const float> add;
  int64_t rows;
  int width;
  bool bias;
  float scale = 1;
};
void launchAdd(Stream stream, const AddParams& params);

// The factors that clip a sequence's gradients (linalg/clipping.h), from the squares of their norms; both may
// be in one place.
struct ClipFactorsParams {
  Global<const float> squares;  // [tokens]
  Global<float> factors;        // [tokens]
  int tokens;
};
void launchClipFactors(Stream stream, const ClipFactorsParams& params);

// sums [width] of (factor_t x_tk)^2 over tokens t, in fp64 and in an order that the tokens' number alone
// decides; factors null for 1.
struct ColumnSquaresParams {
  Global<const float> x;        // [tokens][width]
  Global<const float> factors;  // [tokens] or null
  Global<double> sums;
  int tokens, width;
};
void launchColumnSquares(Stream stream, const ColumnSquaresParams& params);

// y = factor * x, which y may be.
struct ScaleParams {
  Global<const float> x;
  Global<float> y;
  float factor;
  int64_t count;
};
void launchScale(Stream stream, const ScaleParams& params);

}  // namespace flrc::gpu
