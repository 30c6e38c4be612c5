#pragma once

// Pivoting of factors, batched over projections of equal shape: each matrix of a batch lies behind the one
// before. All in fp64, row-major (linalg/pivot.cc has the CPU's).

#include "kernels/device.cuh"
#include "kernels/pace.h"

namespace flrc::gpu {

// Columns of u [batch][rows][width] (rank by output) in the order of QR with column pivoting, and R
// (linalg/pivot.cc). Rows are taken at unit length. u is destroyed.
struct PivotedQrParams {
  Global<double> u;
  Global<double> r;       // [batch][rows][width], in u's order of columns: 0 above what it reduces
  Global<double> basis;   // working memory: [batch][rows][rows]
  Global<double> norms;   // working memory: [batch][width]
  Global<int32_t> order;  // [batch][rows]: the pivots, in the order of their choice
  Global<int32_t> rank;   // [batch]: pivots found
  int rows, width;
};
// What a block must be able to have in shared memory for it.
size_t pivotSharedBytes(int rows);
void launchPivotedQr(Stream stream, const PivotedQrParams& params, int batch, const Pace& pace = kNoPace);

// out [width][count] = the first `count` rows of r [rows][width], column by column in the order given.
struct ColumnsParams {
  Global<const double> r;
  Global<const int32_t> column;  // [width]
  Global<double> out;
  int count, width;
};
void launchColumns(Stream stream, const ColumnsParams& params);

// Z [batch][rows][width] with U[:, j] = U[:, pivots] Z[:, j] for every column j, from launchPivotedQr's result;
// rows behind the rank are zeros.
struct CoefficientParams {
  Global<const double> r;
  Global<const int32_t> order, rank;
  Global<double> z;
  int rows, width;
};
void launchCoefficients(Stream stream, const CoefficientParams& params, int batch);

}  // namespace flrc::gpu
