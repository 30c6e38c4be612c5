#pragma once

#include "kernels/weights.cuh"

// Products of bf16 matrices on tensor cores, a tile of kTile x kTile of the result to a block, sums in f32
// registers. What becomes of the sums is the kernel's own: they need not be stored.

namespace flrc::gpu {

inline constexpr int kTile = 128;
inline constexpr int kTileThreads = 256;
// Of the dimension that is summed over, what is in shared memory as one stage.
inline constexpr int kTileDepth = 32;
inline constexpr int kTileStages = 3;
// Eight warps, two by four; each has 64 x 32 of the tile: 4 x 4 fragments of 16 x 8.
inline constexpr int kWarpRows = 64;
inline constexpr int kWarpColumns = 32;

// A [rows, depth] operand. By depth: depth runs along a row, [rows][ld]. By rows: [depth][ld], as activations
// lie whose tokens are summed over. ld is a multiple of 8.
struct Operand {
  Global<const uint16_t> data;
  int64_t ld;
  int rows, depth;
};

template <bool kByDepth>
struct TileArea {
  // Rows of shared memory are 16 bytes more than an odd multiple of 16 long: 8 of them lie in different banks.
  static constexpr int kLines = kByDepth ? kTile : kTileDepth;
  static constexpr int kWidth = kByDepth ? kTileDepth : kTile;
  static constexpr int kLd = kWidth + 8;
  static constexpr int kValues = kLines * kLd;
};

// Of a product of A and B.
template <bool kByDepth, bool kOther = kByDepth>
inline constexpr size_t kTileBytes = size_t{kTileStages} *
                                     (TileArea<kByDepth>::kValues + TileArea<kOther>::kValues) *
                                     sizeof(uint16_t);

// Starts fetching rows [row, row + kTile) and [depth, depth + kTileDepth) of an operand; zeros outside it.
template <bool kByDepth>
FLRC_DEVICE void fetchTile(const Operand& from, int row, int depth, Shared<uint16_t> to) {
  using Area = TileArea<kByDepth>;
  constexpr int kPieces = Area::kWidth / 8;
  for (int i = threadIndex(); i < Area::kLines * kPieces; i += kTileThreads) {
    const int line = i / kPieces, place = i % kPieces * 8;
    const int outer = (kByDepth ? row : depth) + line, inner = (kByDepth ? depth : row) + place;
    const int outerEnd = kByDepth ? from.rows : from.depth, innerEnd = kByDepth ? from.depth : from.rows;
    const int left = outer < outerEnd ? innerEnd - inner : 0, values = left < 0 ? 0 : left < 8 ? left : 8;
    // With no values nothing is read, but the address must be one of the operand's.
    const int64_t offset = values > 0 ? outer * from.ld + inner : 0;
    copyAsync(pointerCast<uint8_t>(to + (line * Area::kLd + place)),
              pointerCast<const uint8_t>(from.data + offset), values * 2);
  }
}

struct TileSums {
  float value[4][4][4] = {};

  // The place in the tile of value[i][j][e].
  static FLRC_DEVICE int rowOf(int i, int e) {
    return warpIndex() / 4 * kWarpRows + 16 * i + e / 2 * 8 + laneIndex() / 4;
  }
  static FLRC_DEVICE int columnOf(int j, int e) {
    return warpIndex() % 4 * kWarpColumns + 8 * j + laneIndex() % 4 * 2 + e % 2;
  }

  // body(row in the tile, column in the tile, sum) for all of a thread's sums.
  template <typename Body>
  FLRC_DEVICE void forEach(const Body& body) const {
    FLRC_UNROLL
    for (int i = 0; i < 4; ++i) {
      FLRC_UNROLL
      for (int j = 0; j < 4; ++j) {
        FLRC_UNROLL
        for (int e = 0; e < 4; ++e) body(rowOf(i, e), columnOf(j, e), value[i][j][e]);
      }
    }
  }
};

// One stage in shared memory.
template <bool kByDepth, bool kOther>
FLRC_DEVICE void multiplyStage(Shared<const uint16_t> a, Shared<const uint16_t> b, TileSums& sums) {
  constexpr int kLd = TileArea<kByDepth>::kLd, kOtherLd = TileArea<kOther>::kLd;
  const int lane = laneIndex(), matrix = lane / 8, line = lane % 8;
  const int firstRow = warpIndex() / 4 * kWarpRows, firstColumn = warpIndex() % 4 * kWarpColumns;
  FLRC_UNROLL
  for (int depth = 0; depth < kTileDepth; depth += 16) {
    uint32_t left[4][4], right[2][4];
    FLRC_UNROLL
    for (int i = 0; i < 4; ++i) {
      // Fragments want the matrices (rows, depth): (0, 0), (8, 0), (0, 8), (8, 8).
      const int row = firstRow + 16 * i + matrix % 2 * 8, at = depth + matrix / 2 * 8;
      loadMatrices<!kByDepth>(left[i],
                              kByDepth ? a + ((row + line) * kLd + at) : a + ((at + line) * kLd + row));
    }
    FLRC_UNROLL
    for (int j = 0; j < 2; ++j) {
      // And (columns, depth): (0, 0), (0, 8), (8, 0), (8, 8).
      const int column = firstColumn + 16 * j + matrix / 2 * 8, at = depth + matrix % 2 * 8;
      loadMatrices<!kOther>(
          right[j], kOther ? b + ((column + line) * kOtherLd + at) : b + ((at + line) * kOtherLd + column));
    }
    FLRC_UNROLL
    for (int i = 0; i < 4; ++i) {
      FLRC_UNROLL
      for (int j = 0; j < 4; ++j) {
        const uint32_t columns[2] = {right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]};
        multiplyFragments(sums.value[i][j], left[i], columns);
      }
    }
  }
}

// sums += A[row.., :] B[column.., :]^T over the whole depth, by a block of kTileThreads with kTileBytes of
// shared memory. A barrier before that memory is used again is the caller's.
template <bool kByDepth, bool kOther = kByDepth>
FLRC_DEVICE void multiplyTile(const Operand& a, const Operand& b, int row, int column, TileSums& sums) {
  constexpr int kOwn = TileArea<kByDepth>::kValues, kStage = kOwn + TileArea<kOther>::kValues;
  const Shared<uint16_t> area = sharedMemory<uint16_t>(0);
  const auto stage = [&](int index) { return area + index % kTileStages * kStage; };
  const int steps = (a.depth + kTileDepth - 1) / kTileDepth;
  const auto fetch = [&](int step) {
    if (step < steps) {
      fetchTile<kByDepth>(a, row, step * kTileDepth, stage(step));
      fetchTile<kOther>(b, column, step * kTileDepth, stage(step) + kOwn);
    }
    commitCopies();
  };
  for (int step = 0; step < kTileStages - 1; ++step) fetch(step);
  for (int step = 0; step < steps; ++step) {
    waitCopies<kTileStages - 2>();
    // All have the stage, and all are done with the one before, which the next copies overwrite.
    syncBlock();
    fetch(step + kTileStages - 1);
    multiplyStage<kByDepth, kOther>(stage(step), stage(step) + kOwn, sums);
  }
  waitCopies<0>();
}

}  // namespace flrc::gpu
