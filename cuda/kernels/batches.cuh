#pragma once

#include "kernels/block.cuh"
#include "kernels/shape.h"

// What kernels over batches of fp64 matrices share.

namespace flrc::gpu::batches {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;

inline LaunchShape shapeOf(int64_t x, int y, int batch, size_t sharedBytes = 0) {
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>(x);
  shape.gridY = static_cast<unsigned>(y);
  shape.gridZ = static_cast<unsigned>(batch);
  shape.threads = kThreads;
  shape.sharedBytes = sharedBytes;
  return shape;
}

// The squared length of a row. `scratch` as blockReduce has it.
FLRC_DEVICE double squaresOf(Global<const double> row, int width, Shared<double> scratch) {
  double squares = 0;
  for (int i = threadIndex(); i < width; i += kThreads) squares = fusedMultiplyAdd(row[i], row[i], squares);
  return blockSum(squares, scratch);
}

}  // namespace flrc::gpu::batches
