#pragma once

// The steps of nested factors (linalg/factors.cc) between products, bases and eigenvectors. fp64, row-major.

#include "kernels/device.cuh"

namespace flrc::gpu {

// full [n][n] of a symmetric matrix packed by rows of its lower triangle, with `added` on the diagonal.
struct UnpackParams {
  Global<const double> packed;  // [n (n + 1) / 2]
  Global<double> full;
  int n;
  double added;
  Global<uint32_t> broken;  // [1], counts values that are not finite
};
void launchUnpack(Stream stream, const UnpackParams& params);

// Rows of W as fp64, or W^T.
struct WidenParams {
  Global<const float> w;  // [rows][columns]
  Global<double> out;     // [rows][columns], transposed [columns][rows]
  int rows, columns;
  bool transposed;
  Global<uint32_t> broken;
};
void launchWiden(Stream stream, const WidenParams& params);

// L^T [n][n] of what launchCholesky (bases.h) left of a matrix, at that matrix' own scale.
struct UpperParams {
  Global<const double> lower, lengths;
  Global<double> upper;
  int n;
};
void launchUpper(Stream stream, const UpperParams& params);

// The identity [n][n].
struct IdentityParams {
  Global<double> out;
  int n;
};
void launchIdentity(Stream stream, const IdentityParams& params);

struct NarrowParams {
  Global<const double> from;
  Global<float> out;
  int64_t count;
};
void launchNarrow(Stream stream, const NarrowParams& params);

}  // namespace flrc::gpu
