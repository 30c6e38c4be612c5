#pragma once

#include "kernels/device.cuh"
#include "kernels/pace.h"

namespace flrc::gpu {

// c [batch][m][n] = a [batch][m][k] b, b [batch][k][n] or, transposed, [batch][n][k]; fp64, on tensor cores.
// lower: c is square and known to be symmetric, and only its lower triangle is of use.
struct ProductParams {
  Global<const double> a, b;
  Global<double> c;
  int m, n, k;
  bool transposed;
  bool lower = false;
  int firstRow = 0;  // of c, in the launch
};
void launchProduct(Stream stream, const ProductParams& params, int batch, const Pace& pace = kNoPace);

}  // namespace flrc::gpu
