#include "tensor/matrix.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "core/error.h"
#include "tensor/run.h"

namespace flrc {
namespace {

// lines * width values, checked so that no byte count derived from it overflows.
size_t checkedValues(int64_t lines, int64_t width) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 8;
  if (lines < 0 || width < 0 || (width > 0 && lines > kMost / width)) {
    throw Error(code::internal, "a matrix of " + std::to_string(lines) + " x " + std::to_string(width) +
                                    " cannot be allocated");
  }
  return static_cast<size_t>(lines * width);
}

// A row in order, outside its panel.
struct Row {
  std::vector<uint32_t> data;
  std::vector<uint16_t> scale;
  std::vector<uint8_t> zero;

  explicit Row(const RowMatrix& m) : data(static_cast<size_t>(m.rowWords())) {
    const auto groups = static_cast<size_t>(m.stride / kGroup);
    if (hasScale(m.dtype)) scale.resize(groups);
    if (hasZero(m.dtype)) zero.resize(groups);
  }
  Run run(const RowMatrix& m) {
    return {m.dtype, m.stride, reinterpret_cast<uint8_t*>(data.data()),
            reinterpret_cast<uint8_t*>(scale.data()), zero.data()};
  }
};

// Values `width` apart, from value `first` on, and back.
template <typename T>
void pick(const uint8_t* from, int64_t first, int64_t width, std::vector<T>& to) {
  const uint8_t* at = from + first * static_cast<int64_t>(sizeof(T));
  for (T& value : to) {
    std::memcpy(&value, at, sizeof(T));
    at += width * static_cast<int64_t>(sizeof(T));
  }
}

template <typename T>
void place(const std::vector<T>& from, uint8_t* to, int64_t first, int64_t width) {
  uint8_t* at = to + first * static_cast<int64_t>(sizeof(T));
  for (const T& value : from) {
    std::memcpy(at, &value, sizeof(T));
    at += width * static_cast<int64_t>(sizeof(T));
  }
}

struct RowPlace {
  int64_t word, group, width;

  RowPlace(const RowMatrix& m, int64_t row) {
    const int64_t first = row / kPanel * kPanel;
    width = std::min(kPanel, m.rows - first);
    word = first * m.rowWords() + row - first;
    group = first * (m.stride / kGroup) + row - first;
  }
};

Row takeRow(const RowMatrix& m, int64_t index) {
  const RowPlace at(m, index);
  Row row(m);
  pick(m.data.data(), at.word, at.width, row.data);
  if (hasScale(m.dtype)) pick(m.scale.data(), at.group, at.width, row.scale);
  if (hasZero(m.dtype)) pick(m.zero.data(), at.group, at.width, row.zero);
  return row;
}

void putRow(RowMatrix& m, int64_t index, const Row& row) {
  const RowPlace at(m, index);
  place(row.data, m.data.data(), at.word, at.width);
  if (hasScale(m.dtype)) place(row.scale, m.scale.data(), at.group, at.width);
  if (hasZero(m.dtype)) place(row.zero, m.zero.data(), at.group, at.width);
}

// The part of a rank that lies in one panel, in order.
struct RankPart {
  Dtype dtype;
  uint8_t data[kGroup * 4] = {}, scale[2] = {}, zero[1] = {};

  Run run() { return {dtype, kGroup, data, scale, zero}; }
};

int64_t wordValues(Dtype dtype) { return 32 / static_cast<int64_t>(weightBytes(dtype, 8)); }

// Calls each(byte of the matrix that holds the rank's weight of output i, i), and says which nibble of it int4
// has.
template <typename Each>
bool eachOutput(const PanelMatrix& m, int64_t panel, int64_t rank, const Each& each) {
  const int64_t values = wordValues(m.dtype), width = std::min(kPanel, m.outputs - panel * kPanel);
  const int64_t word = panel * kPanel * m.outputWords() + rank / values * width;
  const int64_t bits = rank % values * (32 / values);
  for (int64_t i = 0; i < width; ++i) each((word + i) * 4 + bits / 8, i);
  return bits % 8 != 0;
}

RankPart takePart(const PanelMatrix& m, int64_t panel, int64_t rank) {
  RankPart part{m.dtype};
  const uint8_t* from = m.data.data();
  const auto group = static_cast<size_t>(panel * m.rank + rank);
  if (m.dtype == Dtype::int4) {
    uint8_t bytes[kGroup] = {};
    const bool high = eachOutput(m, panel, rank, [&](int64_t at, int64_t i) { bytes[i] = from[at]; });
    for (int64_t i = 0; i < kGroup; ++i) setNibble(part.data, i, (bytes[i] >> (high ? 4 : 0)) & 15);
  } else {
    const size_t size = weightBytes(m.dtype, 1);
    eachOutput(m, panel, rank, [&](int64_t at, int64_t i) {
      std::memcpy(part.data + static_cast<size_t>(i) * size, from + at, size);
    });
  }
  if (hasScale(m.dtype)) std::memcpy(part.scale, m.scale.data() + 2 * group, 2);
  if (hasZero(m.dtype)) part.zero[0] = m.zero.data()[group];
  return part;
}

void putPart(PanelMatrix& m, int64_t panel, int64_t rank, const RankPart& part) {
  uint8_t* to = m.data.data();
  const auto group = static_cast<size_t>(panel * m.rank + rank);
  if (m.dtype == Dtype::int4) {
    const bool high = rank % 2 != 0;
    eachOutput(m, panel, rank,
               [&](int64_t at, int64_t i) { setNibble(to + at, high ? 1 : 0, nibble(part.data, i)); });
  } else {
    const size_t size = weightBytes(m.dtype, 1);
    eachOutput(m, panel, rank, [&](int64_t at, int64_t i) {
      std::memcpy(to + at, part.data + static_cast<size_t>(i) * size, size);
    });
  }
  if (hasScale(m.dtype)) std::memcpy(m.scale.data() + 2 * group, part.scale, 2);
  if (hasZero(m.dtype)) m.zero.data()[group] = part.zero[0];
}

void checkLine(const char* what, int64_t index, int64_t count) {
  if (index < 0 || index >= count) {
    throw Error(code::internal,
                std::string(what) + " " + std::to_string(index) + " of a matrix with " + std::to_string(count));
  }
}

}  // namespace

void Buffer::Free::operator()(void* p) const { std::free(p); }

Buffer::Buffer(size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  // Room to align in, and two vectors more: kernels load whole tiles of a narrow panel. Of calloc, because
  // fresh memory is zero already: it costs nothing until those who fill it touch it, side by side.
  const size_t all = bytes + 3 * kAlignment;
  void* memory = all < bytes ? nullptr : std::calloc(all, 1);
  if (memory == nullptr) {
    throw Error(code::outOfMemory, "out of memory: " + std::to_string(bytes) + " bytes could not be allocated");
  }
  memory_.reset(memory);
}

int64_t RowMatrix::rowWords() const {
  return static_cast<int64_t>(weightBytes(dtype, static_cast<size_t>(stride)) / 4);
}

int64_t PanelMatrix::outputWords() const {
  const int64_t values = wordValues(dtype);
  return (rank + values - 1) / values;
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
  const size_t groups = checkedValues(matrix.panels(), rank);
  matrix.data = Buffer(checkedValues(outputs, matrix.outputWords()) * 4);
  if (hasScale(dtype)) matrix.scale = Buffer(groups * 2);
  if (hasZero(dtype)) matrix.zero = Buffer(groups);
  return matrix;
}

void setRow(RowMatrix& matrix, int64_t row, const float* w) {
  checkLine("row", row, matrix.rows);
  Row values(matrix);
  writeRun(values.run(matrix), w, matrix.cols);
  putRow(matrix, row, values);
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
      RankPart part{dtype};
      writeRun(part.run(), w + j * ld + first, std::min(kPanel, outputs - first));
      putPart(matrix, panel, j, part);
    }
  }
  return matrix;
}

void getRow(const RowMatrix& matrix, int64_t row, float* out) {
  checkLine("row", row, matrix.rows);
  readRun(takeRow(matrix, row).run(matrix), matrix.cols, out);
}

void getRank(const PanelMatrix& matrix, int64_t rank, float* out) {
  checkLine("rank", rank, matrix.rank);
  for (int64_t panel = 0; panel < matrix.panels(); ++panel) {
    const int64_t first = panel * kPanel;
    readRun(takePart(matrix, panel, rank).run(), std::min(kPanel, matrix.outputs - first), out + first);
  }
}

void storeRow(const RowMatrix& matrix, int64_t row, StoredRow& out) {
  checkLine("row", row, matrix.rows);
  sizeStored(matrix.dtype, matrix.cols, out);
  storeRun(takeRow(matrix, row).run(matrix), 0, matrix.cols, out);
}

void storeRank(const PanelMatrix& matrix, int64_t rank, StoredRow& out) {
  checkLine("rank", rank, matrix.rank);
  sizeStored(matrix.dtype, matrix.outputs, out);
  for (int64_t panel = 0; panel < matrix.panels(); ++panel) {
    const int64_t first = panel * kPanel;
    storeRun(takePart(matrix, panel, rank).run(), first, std::min(kPanel, matrix.outputs - first), out);
  }
}

void loadRow(RowMatrix& matrix, int64_t row, const uint8_t* data, const uint8_t* scale, const uint8_t* zero) {
  checkLine("row", row, matrix.rows);
  Row values(matrix);
  loadRun(values.run(matrix), 0, matrix.cols, data, scale, zero);
  putRow(matrix, row, values);
}

void loadRank(PanelMatrix& matrix, int64_t rank, const uint8_t* data, const uint8_t* scale,
              const uint8_t* zero) {
  checkLine("rank", rank, matrix.rank);
  for (int64_t panel = 0; panel < matrix.panels(); ++panel) {
    const int64_t first = panel * kPanel;
    RankPart part{matrix.dtype};
    loadRun(part.run(), first, std::min(kPanel, matrix.outputs - first), data, scale, zero);
    putPart(matrix, panel, rank, part);
  }
}

}  // namespace flrc
