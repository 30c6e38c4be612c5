#include "tensor/matrix.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "core/error.h"

namespace flrc {
namespace {

constexpr size_t kAlignment = 64;
constexpr int64_t kPanelGroups = kPanel / kGroup;

int64_t groupsOf(int64_t values) { return (values + kGroup - 1) / kGroup; }

bool hasScale(Dtype dtype) { return dtype == Dtype::int8 || dtype == Dtype::int4; }
bool hasZero(Dtype dtype) { return dtype == Dtype::int4; }

// Bytes of `values` weights, an even number of them.
size_t weightBytes(Dtype dtype, size_t values) {
  switch (dtype) {
    case Dtype::f32:
      return values * 4;
    case Dtype::bf16:
      return values * 2;
    case Dtype::int8:
      return values;
    case Dtype::int4:
      return values / 2;
  }
  throw Error(code::internal, "a matrix of unknown dtype " + std::to_string(static_cast<int>(dtype)));
}

// lines * width values, checked so that no byte count derived from it overflows.
size_t checkedValues(int64_t lines, int64_t width) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 8;
  if (lines < 0 || width < 0 || (width > 0 && lines > kMost / width)) {
    throw Error(code::internal, "a matrix of " + std::to_string(lines) + " x " + std::to_string(width) +
                                    " cannot be allocated");
  }
  return static_cast<size_t>(lines * width);
}

// A run of whole groups inside either layout: a row, or the part of a rank that lies in one panel.
// Both layouts quantise, store and load through it.
struct Run {
  Dtype dtype;
  int64_t padded;  // values, a multiple of kGroup
  uint8_t* data;
  uint8_t* scale;  // bf16 bits, one a group
  uint8_t* zero;   // one a group
};

Run runAt(Dtype dtype, int64_t padded, int64_t index, Buffer& data, Buffer& scale, Buffer& zero) {
  const size_t at = static_cast<size_t>(index * padded), groups = at / kGroup;
  return {dtype, padded, data.data() + weightBytes(dtype, at),
          hasScale(dtype) ? scale.data() + groups * 2 : nullptr,
          hasZero(dtype) ? zero.data() + groups : nullptr};
}

// One description serves readers and writers; only the functions that take a matrix as non-const write.
Run rowRun(const RowMatrix& matrix, int64_t row) {
  auto& m = const_cast<RowMatrix&>(matrix);
  return runAt(m.dtype, m.stride, row, m.data, m.scale, m.zero);
}

Run panelRun(const PanelMatrix& matrix, int64_t panel, int64_t rank) {
  auto& m = const_cast<PanelMatrix&>(matrix);
  return runAt(m.dtype, kPanel, panel * m.rank + rank, m.data, m.scale, m.zero);
}

void checkLine(const char* what, int64_t index, int64_t count) {
  if (index < 0 || index >= count) {
    throw Error(code::internal,
                std::string(what) + " " + std::to_string(index) + " of a matrix with " + std::to_string(count));
  }
}

uint16_t readBf16(const uint8_t* at) {
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return bits;
}

void writeBf16(uint8_t* at, uint16_t bits) { std::memcpy(at, &bits, sizeof bits); }

int nibble(const uint8_t* data, int64_t i) { return (data[i / 2] >> (4 * (i & 1))) & 15; }

void setNibble(uint8_t* data, int64_t i, int q) {
  const int shift = 4 * static_cast<int>(i & 1);
  data[i / 2] = static_cast<uint8_t>((data[i / 2] & (0xf0 >> shift)) | (q << shift));
}

void rejectNonFinite(const float* w, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(w[i])) throw Error(code::numeric, "a weight to quantise is not finite");
  }
}

// w: up to kGroup values; the scale is rounded first, so that q is the best for the scale that is stored.
void quantiseInt8(const float* w, int64_t count, int8_t* q, uint8_t* scaleAt) {
  float most = 0;
  for (int64_t i = 0; i < count; ++i) most = std::max(most, std::fabs(w[i]));
  const uint16_t bits = floatToBf16(most / 127);
  const float scale = bf16ToFloat(bits);
  writeBf16(scaleAt, bits);
  for (int64_t i = 0; i < count; ++i) {
    const float steps = scale > 0 ? std::nearbyint(w[i] / scale) : 0;
    q[i] = static_cast<int8_t>(std::clamp(steps, -127.0f, 127.0f));
  }
  std::fill(q + count, q + kGroup, int8_t{0});
}

// The range always contains 0, so that a weight of 0 (and padding) stays exactly 0.
void quantiseInt4(const float* w, int64_t count, uint8_t* data, int64_t first, uint8_t* scaleAt,
                  uint8_t* zeroAt) {
  float low = 0, high = 0;
  for (int64_t i = 0; i < count; ++i) {
    low = std::min(low, w[i]);
    high = std::max(high, w[i]);
  }
  const uint16_t bits = floatToBf16(high / 15 - low / 15);
  const float scale = bf16ToFloat(bits);
  const float zero = scale > 0 ? std::clamp(std::nearbyint(-low / scale), 0.0f, 15.0f) : 0;
  writeBf16(scaleAt, bits);
  *zeroAt = static_cast<uint8_t>(zero);
  for (int64_t i = 0; i < kGroup; ++i) {
    const float steps = i < count && scale > 0 ? std::nearbyint(w[i] / scale) : 0;
    setNibble(data, first + i, static_cast<int>(std::clamp(steps + zero, 0.0f, 15.0f)));
  }
}

// w: `count` <= run.padded values.
void writeRun(const Run& run, const float* w, int64_t count) {
  switch (run.dtype) {
    case Dtype::f32:
      std::memcpy(run.data, w, static_cast<size_t>(count) * 4);
      return;
    case Dtype::bf16:
      for (int64_t i = 0; i < count; ++i) writeBf16(run.data + 2 * i, floatToBf16(w[i]));
      return;
    case Dtype::int8:
    case Dtype::int4:
      break;
  }
  rejectNonFinite(w, count);
  for (int64_t group = 0; group < groupsOf(count); ++group) {
    const int64_t first = group * kGroup, values = std::min(kGroup, count - first);
    if (run.dtype == Dtype::int8) {
      quantiseInt8(w + first, values, reinterpret_cast<int8_t*>(run.data) + first, run.scale + 2 * group);
    } else {
      quantiseInt4(w + first, values, run.data, first, run.scale + 2 * group, run.zero + group);
    }
  }
}

void readRun(const Run& run, int64_t count, float* out) {
  switch (run.dtype) {
    case Dtype::f32:
      std::memcpy(out, run.data, static_cast<size_t>(count) * 4);
      return;
    case Dtype::bf16:
      for (int64_t i = 0; i < count; ++i) out[i] = bf16ToFloat(readBf16(run.data + 2 * i));
      return;
    case Dtype::int8:
      for (int64_t i = 0; i < count; ++i) {
        const float scale = bf16ToFloat(readBf16(run.scale + 2 * (i / kGroup)));
        out[i] = static_cast<float>(reinterpret_cast<const int8_t*>(run.data)[i]) * scale;
      }
      return;
    case Dtype::int4:
      for (int64_t i = 0; i < count; ++i) {
        const float scale = bf16ToFloat(readBf16(run.scale + 2 * (i / kGroup)));
        out[i] = static_cast<float>(nibble(run.data, i) - run.zero[i / kGroup]) * scale;
      }
      return;
  }
}

// Where a run lies in a stored row: its first value is a multiple of kGroup, so bytes never straddle.
struct StoredPart {
  size_t data, scale, zero;  // offsets in bytes
  size_t dataBytes, scaleBytes, zeroBytes;
};

StoredPart storedPart(Dtype dtype, int64_t first, int64_t count) {
  const size_t groups = static_cast<size_t>(groupsOf(count)), firstGroup = static_cast<size_t>(first / kGroup);
  StoredPart part{};
  part.data = storedRowBytes(dtype, first);
  part.dataBytes = storedRowBytes(dtype, count);
  if (hasScale(dtype)) {
    part.scale = firstGroup * 2;
    part.scaleBytes = groups * 2;
  }
  if (hasZero(dtype)) {
    part.zero = firstGroup;
    part.zeroBytes = groups;
  }
  return part;
}

void sizeStored(Dtype dtype, int64_t cols, StoredRow& out) {
  const StoredPart whole = storedPart(dtype, 0, cols);
  out.data.resize(whole.dataBytes);
  out.scale.resize(whole.scaleBytes);
  out.zero.resize(whole.zeroBytes);
}

void copyBytes(uint8_t* to, const uint8_t* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

void storeRun(const Run& run, int64_t first, int64_t count, StoredRow& out) {
  const StoredPart part = storedPart(run.dtype, first, count);
  copyBytes(out.data.data() + part.data, run.data, part.dataBytes);
  copyBytes(out.scale.data() + part.scale, run.scale, part.scaleBytes);
  copyBytes(out.zero.data() + part.zero, run.zero, part.zeroBytes);
  // The unused half of an odd row's last byte is not the matrix's padding, so files do not depend on it.
  if (run.dtype == Dtype::int4 && count % 2 != 0) out.data[part.data + part.dataBytes - 1] &= 15;
}

void loadRun(const Run& run, int64_t first, int64_t count, const uint8_t* data, const uint8_t* scale,
             const uint8_t* zero) {
  const StoredPart part = storedPart(run.dtype, first, count);
  copyBytes(run.data, data + part.data, part.dataBytes);
  copyBytes(run.scale, scale + part.scale, part.scaleBytes);
  copyBytes(run.zero, zero + part.zero, part.zeroBytes);
  if (run.dtype == Dtype::int4) {
    // The weights of padding are 0, whatever the file's last byte holds.
    for (int64_t i = count; i < groupsOf(count) * kGroup; ++i) {
      setNibble(run.data, i, std::min<int>(run.zero[i / kGroup], 15));
    }
  }
}

}  // namespace

void Buffer::Free::operator()(uint8_t* p) const { std::free(p); }

Buffer::Buffer(size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  // Rounded up, as aligned_alloc asks; kernels rely on whole vectors inside.
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  auto* memory = rounded < bytes ? nullptr : static_cast<uint8_t*>(std::aligned_alloc(kAlignment, rounded));
  if (memory == nullptr) {
    throw Error(code::outOfMemory, "out of memory: " + std::to_string(bytes) + " bytes could not be allocated");
  }
  std::memset(memory, 0, rounded);
  data_.reset(memory);
}

RowMatrix allocateRows(int64_t rows, int64_t cols, Dtype dtype) {
  RowMatrix matrix;
  matrix.dtype = dtype;
  matrix.rows = rows;
  matrix.cols = cols;
  checkedValues(rows, cols);
  matrix.stride = groupsOf(cols) * kGroup;
  const size_t values = checkedValues(rows, matrix.stride);
  matrix.data = Buffer(weightBytes(dtype, values));
  if (hasScale(dtype)) matrix.scale = Buffer(values / kGroup * 2);
  if (hasZero(dtype)) matrix.zero = Buffer(values / kGroup);
  return matrix;
}

PanelMatrix allocatePanels(int64_t rank, int64_t outputs, Dtype dtype) {
  PanelMatrix matrix;
  matrix.dtype = dtype;
  matrix.outputs = outputs;
  matrix.rank = rank;
  checkedValues(rank, outputs);
  const size_t values = checkedValues(rank, matrix.panels() * kPanel);
  matrix.data = Buffer(weightBytes(dtype, values));
  if (hasScale(dtype)) matrix.scale = Buffer(values / kGroup * 2);
  if (hasZero(dtype)) matrix.zero = Buffer(values / kGroup);
  return matrix;
}

void setRow(RowMatrix& matrix, int64_t row, const float* w) {
  checkLine("row", row, matrix.rows);
  writeRun(rowRun(matrix, row), w, matrix.cols);
}

RowMatrix makeRows(const float* w, int64_t rows, int64_t cols, int64_t ld, Dtype dtype) {
  RowMatrix matrix = allocateRows(rows, cols, dtype);
  for (int64_t row = 0; row < rows; ++row) setRow(matrix, row, w + row * ld);
  return matrix;
}

PanelMatrix makePanels(const float* w, int64_t rank, int64_t outputs, int64_t ld, Dtype dtype) {
  PanelMatrix matrix = allocatePanels(rank, outputs, dtype);
  for (int64_t panel = 0; panel < matrix.panels(); ++panel) {
    const int64_t first = panel * kPanel;
    for (int64_t j = 0; j < rank; ++j) {
      writeRun(panelRun(matrix, panel, j), w + j * ld + first, std::min(kPanel, outputs - first));
    }
  }
  return matrix;
}

void getRow(const RowMatrix& matrix, int64_t row, float* out) {
  checkLine("row", row, matrix.rows);
  readRun(rowRun(matrix, row), matrix.cols, out);
}

void getRank(const PanelMatrix& matrix, int64_t rank, float* out) {
  checkLine("rank", rank, matrix.rank);
  for (int64_t panel = 0; panel < matrix.panels(); ++panel) {
    const int64_t first = panel * kPanel;
    readRun(panelRun(matrix, panel, rank), std::min(kPanel, matrix.outputs - first), out + first);
  }
}

size_t storedRowBytes(Dtype dtype, int64_t cols) {
  return weightBytes(dtype, static_cast<size_t>(dtype == Dtype::int4 ? cols + cols % 2 : cols));
}

void storeRow(const RowMatrix& matrix, int64_t row, StoredRow& out) {
  checkLine("row", row, matrix.rows);
  sizeStored(matrix.dtype, matrix.cols, out);
  storeRun(rowRun(matrix, row), 0, matrix.cols, out);
}

void storeRank(const PanelMatrix& matrix, int64_t rank, StoredRow& out) {
  checkLine("rank", rank, matrix.rank);
  sizeStored(matrix.dtype, matrix.outputs, out);
  for (int64_t panel = 0; panel < matrix.panels(); ++panel) {
    const int64_t first = panel * kPanel;
    storeRun(panelRun(matrix, panel, rank), first, std::min(kPanel, matrix.outputs - first), out);
  }
}

void loadRow(RowMatrix& matrix, int64_t row, const uint8_t* data, const uint8_t* scale, const uint8_t* zero) {
  checkLine("row", row, matrix.rows);
  loadRun(rowRun(matrix, row), 0, matrix.cols, data, scale, zero);
}

void loadRank(PanelMatrix& matrix, int64_t rank, const uint8_t* data, const uint8_t* scale,
              const uint8_t* zero) {
  checkLine("rank", rank, matrix.rank);
  for (int64_t panel = 0; panel < matrix.panels(); ++panel) {
    const int64_t first = panel * kPanel;
    loadRun(panelRun(matrix, panel, rank), first, std::min(kPanel, matrix.outputs - first), data, scale, zero);
  }
}

}  // namespace flrc
