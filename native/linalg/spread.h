#pragma once

#include <algorithm>
#include <cstdint>

#include "core/job.h"
#include "core/thread_pool.h"

namespace flrc {

// Loops over parts of matrices, several at once. Parts are the same at any number of threads, and each begins
// with a look at whether the job was cancelled.

// body(first, count) for stretches of `size`.
template <typename Body>
void forBands(int64_t count, int64_t size, int threads, const Job& job, const Body& body) {
  ThreadPool::shared().parallelFor((count + size - 1) / size, threads, [&](int64_t i) {
    job.check();
    body(i * size, std::min(size, count - i * size));
  });
}

// body(row, rows, column, columns) for the tiles on and below the diagonal of an n x n matrix.
template <typename Body>
void forLowerTiles(int64_t n, int64_t size, int threads, const Job& job, const Body& body) {
  const int64_t side = (n + size - 1) / size;
  ThreadPool::shared().parallelFor(side * side, threads, [&](int64_t i) {
    const int64_t row = i / side * size, column = i % side * size;
    if (column > row) return;
    job.check();
    body(row, std::min(size, n - row), column, std::min(size, n - column));
  });
}

// Puts a tile's mirror image above the diagonal of a symmetric row-major [n, n].
inline void mirrorTile(int64_t n, double* matrix, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  // In small squares, or the mirrored writes miss the cache on every element.
  constexpr int64_t kSquare = 32;
  for (int64_t r0 = row; r0 < row + rows; r0 += kSquare) {
    for (int64_t c0 = column; c0 < column + columns; c0 += kSquare) {
      for (int64_t r = r0; r < std::min(row + rows, r0 + kSquare); ++r) {
        const int64_t end = std::min({r, column + columns, c0 + kSquare});
        for (int64_t c = c0; c < end; ++c) matrix[c * n + r] = matrix[r * n + c];
      }
    }
  }
}

}  // namespace flrc
