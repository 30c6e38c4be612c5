#pragma once

#include <cstdint>

#include "tensor/matrix.h"

namespace flrc {

// A run of whole groups in order: a row, or the part of a rank that lies in one panel. Both layouts quantise,
// store and load through it.
struct Run {
  Dtype dtype;
  int64_t padded;  // values, a multiple of kGroup
  uint8_t* data;
  uint8_t* scale;  // bf16 bits, one a group
  uint8_t* zero;   // one a group
};

inline int64_t groupsOf(int64_t values) { return (values + kGroup - 1) / kGroup; }
// Bytes of `values` weights, an even number of them.
size_t weightBytes(Dtype dtype, size_t values);
// The i-th of nibbles, low one first.
int nibble(const uint8_t* data, int64_t i);
void setNibble(uint8_t* data, int64_t i, int q);

// w: `count` <= run.padded values. E_NUMERIC for a weight to quantise that is not finite.
void writeRun(const Run& run, const float* w, int64_t count);
void readRun(const Run& run, int64_t count, float* out);
// To and from a stored row, whose values [first, first + count) the run is; first is a multiple of kGroup.
void sizeStored(Dtype dtype, int64_t cols, StoredRow& out);
void storeRun(const Run& run, int64_t first, int64_t count, StoredRow& out);
void loadRun(const Run& run, int64_t first, int64_t count, const uint8_t* data, const uint8_t* scale,
             const uint8_t* zero);

}  // namespace flrc
