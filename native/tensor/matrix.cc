#include "tensor/matrix.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "core/error.h"
#include "platform/memory.h"
#include "tensor/run.h"

namespace flrc {
namespace {

// Buffers from this size on are mapped.
constexpr size_t kMapped = size_t{64} << 10;

// lines * width values, checked so that no byte count derived from it overflows.
size_t checkedValues(int64_t lines, int64_t width) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 8;
  if (lines < 0 || width < 0 || (width > 0 && lines > kMost / width)) {
    throw Error(code::internal, "a matrix of " + std::to_string(lines) + " x " + std::to_string(width) +
                                    " cannot be allocated");
  }
  return static_cast<size_t>(lines * width);
}

template <typename T>
T valueAt(const uint8_t* data, int64_t i) {
  T value;
  std::memcpy(&value, data + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <typename T>
void setValueAt(uint8_t* data, int64_t i, T value) {
  std::memcpy(data + i * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
}

// Columns of the rows of one panel in order, outside it: small enough for the stack, so that filling a matrix
// takes no memory beside it.
struct Tile {
  static constexpr int64_t kGroups = 4;

  uint32_t data[kPanel][kGroups * kGroup];
  uint16_t scale[kPanel][kGroups];
  uint8_t zero[kPanel][kGroups];

  Run run(Dtype dtype, int64_t row, int64_t groups) {
    return {dtype, groups * kGroup, reinterpret_cast<uint8_t*>(data[row]),
            reinterpret_cast<uint8_t*>(scale[row]), zero[row]};
  }
};

// Where the first word and group of a row lie, and how far apart its next ones.
struct RowPlace {
  int64_t word, group, width;

  RowPlace(const RowMatrix& m, int64_t row) {
    const int64_t first = row / kPanel * kPanel;
    width = std::min(kPanel, m.rows - first);
    word = first * m.rowWords() + row - first;
    group = first * (m.stride / kGroup) + row - first;
  }
};

// A row in order, outside its panel.
struct Row {
  std::vector<uint32_t> data;
  std::vector<uint16_t> scale;
  std::vector<uint8_t> zero;

  Row(const RowMatrix& m, int64_t index) {
    const RowPlace at(m, index);
    const int64_t groups = m.stride / kGroup;
    pick(m.data, at.word, at.width, m.rowWords(), data);
    if (hasScale(m.dtype)) pick(m.scale, at.group, at.width, groups, scale);
    if (hasZero(m.dtype)) pick(m.zero, at.group, at.width, groups, zero);
  }
  Run run(const RowMatrix& m) {
    return {m.dtype, m.stride, reinterpret_cast<uint8_t*>(data.data()),
            reinterpret_cast<uint8_t*>(scale.data()), zero.data()};
  }

 private:
  // `count` values `width` apart, from value `first` on.
  template <typename T>
  static void pick(const Buffer& from, int64_t first, int64_t width, int64_t count, std::vector<T>& to) {
    to.resize(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) to[static_cast<size_t>(i)] = valueAt<T>(from.data(), first + i * width);
  }
};

// The first `count` values of `rows` rows to where those of a panel's `width` rows lie side by side, from value
// `first` of the buffer on.
template <typename T, size_t kLength>
void place(const T (&from)[kPanel][kLength], int64_t rows, int64_t count, Buffer& to, int64_t first,
           int64_t width) {
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t row = 0; row < rows; ++row) setValueAt(to.data(), first + i * width + row, from[row][i]);
  }
}

// Fills rows [first, first + count) with what write(row, first column, columns, run) writes.
template <typename Write>
void putRows(RowMatrix& m, int64_t first, int64_t count, const Write& write) {
  const int64_t groups = m.stride / kGroup, groupWords = m.rowWords() / std::max<int64_t>(groups, 1);
  Tile tile;
  for (int64_t begin = first, end; begin < first + count; begin = end) {
    end = std::min(first + count, (begin / kPanel + 1) * kPanel);
    const RowPlace at(m, begin);
    for (int64_t group = 0; group < groups; group += Tile::kGroups) {
      const int64_t some = std::min(Tile::kGroups, groups - group), column = group * kGroup;
      const int64_t columns = std::min(some * kGroup, m.cols - column);
      // Padding is zeros.
      if (columns < some * kGroup) std::memset(&tile, 0, sizeof tile);
      for (int64_t row = begin; row < end; ++row) {
        write(row, column, columns, tile.run(m.dtype, row - begin, some));
      }
      place(tile.data, end - begin, some * groupWords, m.data, at.word + group * groupWords * at.width,
            at.width);
      const int64_t firstGroup = at.group + group * at.width;
      if (hasScale(m.dtype)) place(tile.scale, end - begin, some, m.scale, firstGroup, at.width);
      if (hasZero(m.dtype)) place(tile.zero, end - begin, some, m.zero, firstGroup, at.width);
    }
  }
}

// The part of a rank that lies in one panel, in order.
struct RankPart {
  Dtype dtype;
  uint8_t data[kGroup * 4] = {}, scale[2] = {}, zero[1] = {};

  Run run() { return {dtype, kGroup, data, scale, zero}; }
};

int64_t wordValues(Dtype dtype) { return 32 / static_cast<int64_t>(weightBytes(dtype, 8)); }

// Where the weights of a rank and a panel lie: in one word per output, `shift` bits up.
struct RankPlace {
  int64_t word, width;
  uint32_t shift, mask;

  RankPlace(const PanelMatrix& m, int64_t panel, int64_t rank) {
    const int64_t values = wordValues(m.dtype);
    width = std::min(kPanel, m.outputs - panel * kPanel);
    word = panel * kPanel * m.outputWords() + rank / values * width;
    const auto bits = static_cast<uint32_t>(32 / values);
    shift = static_cast<uint32_t>(rank % values) * bits;
    mask = bits == 32 ? ~0u : (1u << bits) - 1;
  }
};

template <typename Take>  // take(i, bits of output i)
void takeBits(const PanelMatrix& m, const RankPlace& place, const Take& take) {
  const uint8_t* words = m.data.data() + 4 * place.word;
  for (int64_t i = 0; i < place.width; ++i) {
    take(i, (valueAt<uint32_t>(words, i) >> place.shift) & place.mask);
  }
}

// The first rank of a word clears those behind it: reading memory that nobody has touched would have it paged
// in twice, first as the page of zeros that all share.
template <typename Bits>  // bits(i) of output i
void putBits(PanelMatrix& m, const RankPlace& place, const Bits& bits) {
  uint8_t* words = m.data.data() + 4 * place.word;
  if (place.shift == 0) {
    for (int64_t i = 0; i < place.width; ++i) setValueAt(words, i, uint32_t{bits(i)});
    return;
  }
  const uint32_t keep = ~(place.mask << place.shift);
  for (int64_t i = 0; i < place.width; ++i) {
    setValueAt(words, i, (valueAt<uint32_t>(words, i) & keep) | (uint32_t{bits(i)} << place.shift));
  }
}

RankPart takePart(const PanelMatrix& m, int64_t panel, int64_t rank) {
  RankPart part{m.dtype};
  uint8_t* to = part.data;
  const RankPlace place(m, panel, rank);
  switch (m.dtype) {
    case Dtype::f32:
      takeBits(m, place, [=](int64_t i, uint32_t bits) { setValueAt(to, i, bits); });
      break;
    case Dtype::bf16:
      takeBits(m, place, [=](int64_t i, uint32_t bits) { setValueAt(to, i, static_cast<uint16_t>(bits)); });
      break;
    case Dtype::int8:
      takeBits(m, place, [=](int64_t i, uint32_t bits) { to[i] = static_cast<uint8_t>(bits); });
      break;
    case Dtype::int4:
      takeBits(m, place, [=](int64_t i, uint32_t bits) { setNibble(to, i, static_cast<int>(bits)); });
      break;
  }
  const auto group = static_cast<size_t>(panel * m.rank + rank);
  if (hasScale(m.dtype)) std::memcpy(part.scale, m.scale.data() + 2 * group, 2);
  if (hasZero(m.dtype)) part.zero[0] = m.zero.data()[group];
  return part;
}

void putPart(PanelMatrix& m, int64_t panel, int64_t rank, const RankPart& part) {
  const uint8_t* from = part.data;
  const RankPlace place(m, panel, rank);
  switch (m.dtype) {
    case Dtype::f32:
      putBits(m, place, [=](int64_t i) { return valueAt<uint32_t>(from, i); });
      break;
    case Dtype::bf16:
      putBits(m, place, [=](int64_t i) { return valueAt<uint16_t>(from, i); });
      break;
    case Dtype::int8:
      putBits(m, place, [=](int64_t i) { return from[i]; });
      break;
    case Dtype::int4:
      putBits(m, place, [=](int64_t i) { return static_cast<uint32_t>(nibble(from, i)); });
      break;
  }
  const auto group = static_cast<size_t>(panel * m.rank + rank);
  if (hasScale(m.dtype)) std::memcpy(m.scale.data() + 2 * group, part.scale, 2);
  if (hasZero(m.dtype)) m.zero.data()[group] = part.zero[0];
}

// Fills ranks [first, first + count) with what write(rank, first output, outputs, run) writes.
template <typename Write>
void putRanks(PanelMatrix& m, int64_t first, int64_t count, const Write& write) {
  for (int64_t panel = 0; panel < m.panels(); ++panel) {
    const int64_t begin = panel * kPanel, outputs = std::min(kPanel, m.outputs - begin);
    for (int64_t rank = first; rank < first + count; ++rank) {
      RankPart part{m.dtype};
      write(rank, begin, outputs, part.run());
      putPart(m, panel, rank, part);
    }
  }
}

void checkLines(const char* what, int64_t first, int64_t count, int64_t all) {
  if (first < 0 || count < 0 || first > all - count) {
    throw Error(code::internal, std::to_string(count) + " " + what + " from " + std::to_string(first) +
                                    " on of a matrix with " + std::to_string(all));
  }
}

// One of several stored rows that lie one after another.
struct StoredLine {
  const uint8_t *data, *scale, *zero;
};

StoredLine lineOf(const StoredRow& rows, Dtype dtype, int64_t cols, int64_t line) {
  const auto at = static_cast<size_t>(line), groups = static_cast<size_t>(groupsOf(cols));
  return {rows.data.data() + at * storedRowBytes(dtype, cols),
          hasScale(dtype) ? rows.scale.data() + at * groups * 2 : nullptr,
          hasZero(dtype) ? rows.zero.data() + at * groups : nullptr};
}

}  // namespace

void Buffer::Free::operator()(void* p) const {
  if (mapped > 0) {
    platform::unmapPages(p, mapped);
  } else {
    std::free(p);
  }
}

Buffer::Buffer(size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  // Room to align in, and two vectors more: kernels load whole tiles of a narrow panel. Fresh memory is zero
  // already: it costs nothing until those who fill it touch it, side by side. Large buffers are mapped one by
  // one, since an arena of malloc that grows stops all threads each time.
  const size_t all = bytes + 3 * kAlignment;
  void* memory = nullptr;
  if (all >= kMapped) {
    memory = platform::mapPages(all);
  } else if (all > bytes) {
    memory = std::calloc(all, 1);
  }
  if (memory == nullptr) {
    throw Error(code::outOfMemory, "out of memory: " + std::to_string(bytes) + " bytes could not be allocated");
  }
  memory_ = {memory, Free{all >= kMapped ? all : 0}};
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

void setRows(RowMatrix& matrix, int64_t first, int64_t count, const float* w, int64_t ld) {
  checkLines("rows", first, count, matrix.rows);
  putRows(matrix, first, count, [&](int64_t row, int64_t column, int64_t columns, const Run& run) {
    writeRun(run, w + (row - first) * ld + column, columns);
  });
}

void setRanks(PanelMatrix& matrix, int64_t first, int64_t count, const float* w, int64_t ld) {
  checkLines("ranks", first, count, matrix.rank);
  putRanks(matrix, first, count, [&](int64_t rank, int64_t output, int64_t outputs, const Run& run) {
    writeRun(run, w + (rank - first) * ld + output, outputs);
  });
}

RowMatrix makeRows(const float* w, int64_t rows, int64_t cols, int64_t ld, Dtype dtype) {
  RowMatrix matrix = allocateRows(rows, cols, dtype);
  setRows(matrix, 0, rows, w, ld);
  return matrix;
}

PanelMatrix makePanels(const float* w, int64_t rank, int64_t outputs, int64_t ld, Dtype dtype) {
  PanelMatrix matrix = allocatePanels(rank, outputs, dtype);
  setRanks(matrix, 0, rank, w, ld);
  return matrix;
}

void getRow(const RowMatrix& matrix, int64_t row, float* out) {
  checkLines("rows", row, 1, matrix.rows);
  readRun(Row(matrix, row).run(matrix), matrix.cols, out);
}

void getRank(const PanelMatrix& matrix, int64_t rank, float* out) {
  checkLines("ranks", rank, 1, matrix.rank);
  for (int64_t panel = 0; panel < matrix.panels(); ++panel) {
    const int64_t first = panel * kPanel;
    readRun(takePart(matrix, panel, rank).run(), std::min(kPanel, matrix.outputs - first), out + first);
  }
}

void storeRow(const RowMatrix& matrix, int64_t row, StoredRow& out) {
  checkLines("rows", row, 1, matrix.rows);
  sizeStored(matrix.dtype, matrix.cols, out);
  storeRun(Row(matrix, row).run(matrix), 0, matrix.cols, out);
}

void storeRank(const PanelMatrix& matrix, int64_t rank, StoredRow& out) {
  checkLines("ranks", rank, 1, matrix.rank);
  sizeStored(matrix.dtype, matrix.outputs, out);
  for (int64_t panel = 0; panel < matrix.panels(); ++panel) {
    const int64_t first = panel * kPanel;
    storeRun(takePart(matrix, panel, rank).run(), first, std::min(kPanel, matrix.outputs - first), out);
  }
}

void loadRows(RowMatrix& matrix, int64_t first, int64_t count, const StoredRow& stored) {
  checkLines("rows", first, count, matrix.rows);
  putRows(matrix, first, count, [&](int64_t row, int64_t column, int64_t columns, const Run& run) {
    const StoredLine from = lineOf(stored, matrix.dtype, matrix.cols, row - first);
    loadRun(run, column, columns, from.data, from.scale, from.zero);
  });
}

void loadRanks(PanelMatrix& matrix, int64_t first, int64_t count, const StoredRow& stored) {
  checkLines("ranks", first, count, matrix.rank);
  putRanks(matrix, first, count, [&](int64_t rank, int64_t output, int64_t outputs, const Run& run) {
    const StoredLine from = lineOf(stored, matrix.dtype, matrix.outputs, rank - first);
    loadRun(run, output, outputs, from.data, from.scale, from.zero);
  });
}

}  // namespace flrc
