#pragma once

#include <cstddef>

namespace flrc::emulator {

// c [rows, columns] += a [rows, depth] b [depth, columns]; columns a multiple of 8. Every value is one sum in
// f32 (or fp64), fused, in the order of the depth.
void addProduct(float* c, const float* a, const float* b, int rows, int columns, int depth);
void addProduct(double* c, const double* a, const double* b, int rows, int columns, int depth);

// Does what a warpgroup has started, but for the last `left` products, whose sums [64, columns] its threads
// have in PTX's fragments.
void finishProducts(size_t left, int columns, void* const* sums);

}  // namespace flrc::emulator
