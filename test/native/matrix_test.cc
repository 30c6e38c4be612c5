#include "tensor/matrix.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "check.h"

using namespace flrc;

namespace {

constexpr Dtype kTypes[] = {Dtype::f32, Dtype::bf16, Dtype::int8, Dtype::int4};

// The largest error of a stored weight, given its group's smallest and largest value (0 included): half a
// step, and what the rounding of the scale to bf16 (relative 2^-8) adds at the end of the range.
double weightTolerance(Dtype dtype, double weight, double low, double high) {
  constexpr double kBf16 = 0x1p-8;
  switch (dtype) {
    case Dtype::f32:
      return 0;
    case Dtype::bf16:
      return std::abs(weight) * kBf16;
    case Dtype::int8: {
      const double most = std::max(-low, high);
      return most / 127 * (1 + kBf16) / 2 + most * kBf16;
    }
    case Dtype::int4:
      // The zero point is rounded too, so that either end may lie half a step outside.
      return (high - low) / 15 * (1 + kBf16) + (high - low) * kBf16;
  }
  return 0;
}

void checkLine(Dtype dtype, const float* w, const float* got, int64_t count) {
  for (int64_t first = 0; first < count; first += kGroup) {
    const int64_t end = std::min(count, first + kGroup);
    const double low = std::min(0.0f, *std::min_element(w + first, w + end));
    const double high = std::max(0.0f, *std::max_element(w + first, w + end));
    for (int64_t i = first; i < end; ++i) CHECK_NEAR(got[i], w[i], weightTolerance(dtype, w[i], low, high));
  }
}

}  // namespace

TEST("dtype: bf16 rounds to nearest even and keeps infinities and NaN") {
  CHECK_EQUAL(floatToBf16(1.0f), 0x3f80);
  CHECK_EQUAL(floatToBf16(1.0f + 0x1p-8f), 0x3f80);
  CHECK_EQUAL(floatToBf16(1.0f + 3 * 0x1p-8f), 0x3f82);
  CHECK_EQUAL(floatToBf16(1.0f + 0x1p-8f + 0x1p-20f), 0x3f81);
  CHECK_EQUAL(floatToBf16(-0.0f), 0x8000);
  CHECK_EQUAL(floatToBf16(std::numeric_limits<float>::max()), 0x7f80);
  CHECK(std::isnan(bf16ToFloat(floatToBf16(std::numeric_limits<float>::quiet_NaN()))));
  for (uint32_t bits = 0; bits < 0x7f80; bits += 7) {
    CHECK_EQUAL(floatToBf16(bf16ToFloat(static_cast<uint16_t>(bits))), bits);
  }
}

TEST("buffer: aligned, zero-filled, and an impossible size is E_OUT_OF_MEMORY") {
  for (const size_t bytes : {1, 63, 64, 65, 5000}) {
    const Buffer buffer(bytes);
    CHECK_EQUAL(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    CHECK_EQUAL(buffer.size(), bytes);
    CHECK(std::all_of(buffer.data(), buffer.data() + bytes, [](uint8_t byte) { return byte == 0; }));
  }
  CHECK(Buffer(0).data() == nullptr);
  CHECK_THROWS(code::outOfMemory, Buffer(std::numeric_limits<size_t>::max()));
}

TEST("row matrix: weights come back within half a step, for every dtype and width") {
  check::Random random(1);
  for (const Dtype dtype : kTypes) {
    for (const int64_t cols : {1, 7, 31, 32, 33, 48, 64, 100, 128, 129, 300}) {
      const int64_t rows = kPanel + 5, ld = cols + 3;
      const std::vector<float> w = random.floats(rows * ld);
      const RowMatrix matrix = makeRows(w.data(), rows, cols, ld, dtype);
      CHECK_EQUAL(matrix.stride % kGroup, 0);
      CHECK(matrix.stride >= cols && matrix.stride < cols + kGroup);
      std::vector<float> got(static_cast<size_t>(cols));
      for (int64_t row = 0; row < rows; ++row) {
        getRow(matrix, row, got.data());
        checkLine(dtype, w.data() + row * ld, got.data(), cols);
      }
    }
  }
}

TEST("panel matrix: weights come back within half a step, for every dtype and shape") {
  check::Random random(2);
  for (const Dtype dtype : kTypes) {
    for (const int64_t outputs : {1, 31, 63, 64, 65, 130}) {
      const int64_t rank = 6, ld = outputs + 2;
      const std::vector<float> w = random.floats(rank * ld);
      const PanelMatrix matrix = makePanels(w.data(), rank, outputs, ld, dtype);
      std::vector<float> got(static_cast<size_t>(outputs));
      for (int64_t j = 0; j < rank; ++j) {
        getRank(matrix, j, got.data());
        checkLine(dtype, w.data() + j * ld, got.data(), outputs);
      }
    }
  }
}

TEST("panel matrix: the first ranks of a panel are contiguous, as kernels read them") {
  const int64_t rank = 3, outputs = kPanel + 6;
  std::vector<float> w(static_cast<size_t>(rank * outputs));
  for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i);
  const PanelMatrix matrix = makePanels(w.data(), rank, outputs, outputs, Dtype::f32);
  CHECK_EQUAL(matrix.panels(), 2);
  CHECK_EQUAL(matrix.data.size(), static_cast<size_t>(rank * outputs) * 4);
  const auto* data = reinterpret_cast<const float*>(matrix.data.data());
  for (int64_t output = 0; output < outputs; ++output) {
    const int64_t first = output < kPanel ? 0 : kPanel, width = output < kPanel ? kPanel : 6;
    for (int64_t j = 0; j < rank; ++j) {
      CHECK_EQUAL(data[first * rank + j * width + output - first],
                  w[static_cast<size_t>(j * outputs + output)]);
    }
  }
}

TEST("row matrix: words of a panel's rows lie side by side, as kernels read them") {
  const int64_t rows = kPanel + 3, cols = 33;
  std::vector<float> w(static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i);
  const RowMatrix matrix = makeRows(w.data(), rows, cols, cols, Dtype::f32);
  CHECK_EQUAL(matrix.rowWords(), 64);
  const auto* data = reinterpret_cast<const float*>(matrix.data.data());
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t first = row < kPanel ? 0 : kPanel, width = row < kPanel ? kPanel : 3;
    for (int64_t word = 0; word < 64; ++word) {
      const float expected = word < cols ? w[static_cast<size_t>(row * cols + word)] : 0.0f;
      CHECK_EQUAL(data[first * 64 + word * width + row - first], expected);
    }
  }
}

TEST("quantising: zeros stay zeros, one-signed and constant groups keep their range") {
  for (const Dtype dtype : {Dtype::int8, Dtype::int4}) {
    for (const float constant : {0.0f, 3.0f, -3.0f, 1e-30f, 1e30f}) {
      const std::vector<float> w(40, constant);
      const RowMatrix matrix = makeRows(w.data(), 1, 40, 40, dtype);
      std::vector<float> got(40);
      getRow(matrix, 0, got.data());
      for (const float value : got) CHECK_NEAR(value, constant, std::abs(constant) * 0x1p-7);
    }
    std::vector<float> w(32, 0.0f);
    w[3] = 5.0f;
    w[9] = -1.0f;
    const RowMatrix matrix = makeRows(w.data(), 1, 32, 32, dtype);
    std::vector<float> got(32);
    getRow(matrix, 0, got.data());
    for (size_t i = 0; i < 32; ++i) {
      if (w[i] == 0) CHECK_EQUAL(got[i], 0.0f);
    }
  }
}

TEST("quantising: a weight that is not finite is E_NUMERIC") {
  std::vector<float> w(32, 1.0f);
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    w[7] = bad;
    CHECK_THROWS(code::numeric, makeRows(w.data(), 1, 32, 32, Dtype::int8));
    CHECK_THROWS(code::numeric, makePanels(w.data(), 1, 32, 32, Dtype::int4));
  }
}

TEST("stored form: what is stored loads to the same bytes, in either layout") {
  check::Random random(3);
  for (const Dtype dtype : kTypes) {
    for (const int64_t cols : {1, 7, 32, 33, 63, 64, 65, 97, 129}) {
      const std::vector<float> w = random.floats(2 * cols);
      const RowMatrix rows = makeRows(w.data(), 2, cols, cols, dtype);
      const PanelMatrix panels = makePanels(w.data(), 2, cols, cols, dtype);
      RowMatrix rowsAgain = allocateRows(2, cols, dtype);
      PanelMatrix panelsAgain = allocatePanels(2, cols, dtype);
      for (int64_t i = 0; i < 2; ++i) {
        StoredRow fromRows, fromPanels;
        storeRow(rows, i, fromRows);
        storeRank(panels, i, fromPanels);
        CHECK_EQUAL(fromRows.data.size(), storedRowBytes(dtype, cols));
        CHECK(fromRows.data == fromPanels.data);
        CHECK(fromRows.scale == fromPanels.scale);
        CHECK(fromRows.zero == fromPanels.zero);
        // Each layout is loaded from what the other one stored.
        loadRows(rowsAgain, i, 1, fromPanels);
        loadRanks(panelsAgain, i, 1, fromRows);
      }
      const auto same = [](const Buffer& a, const Buffer& b) {
        return a.size() == b.size() && std::equal(a.data(), a.data() + a.size(), b.data());
      };
      CHECK(same(rows.data, rowsAgain.data) && same(rows.scale, rowsAgain.scale) &&
            same(rows.zero, rowsAgain.zero));
      for (int64_t i = 0; i < 2; ++i) {
        std::vector<float> before(static_cast<size_t>(cols)), after(before);
        getRank(panels, i, before.data());
        getRank(panelsAgain, i, after.data());
        CHECK(before == after);
      }
    }
  }
}

TEST("stored form: ranges of rows and ranks give the bytes of the whole") {
  check::Random random(4);
  for (const Dtype dtype : kTypes) {
    const int64_t lines = 2 * kPanel + 6, cols = 140;
    const std::vector<float> w = random.floats(lines * cols);
    const RowMatrix rows = makeRows(w.data(), lines, cols, cols, dtype);
    const PanelMatrix panels = makePanels(w.data(), lines, cols, cols, dtype);
    RowMatrix setRange = allocateRows(lines, cols, dtype), loadRange = allocateRows(lines, cols, dtype);
    PanelMatrix setRangeOf = allocatePanels(lines, cols, dtype),
                loadRangeOf = allocatePanels(lines, cols, dtype);
    for (int64_t begin = 0, end; begin < lines; begin = end) {
      end = std::min(lines, begin + 27);
      StoredRow stored, row;
      for (int64_t i = begin; i < end; ++i) {
        storeRow(rows, i, row);
        stored.data.insert(stored.data.end(), row.data.begin(), row.data.end());
        stored.scale.insert(stored.scale.end(), row.scale.begin(), row.scale.end());
        stored.zero.insert(stored.zero.end(), row.zero.begin(), row.zero.end());
      }
      setRows(setRange, begin, end - begin, w.data() + begin * cols, cols);
      loadRows(loadRange, begin, end - begin, stored);
      setRanks(setRangeOf, begin, end - begin, w.data() + begin * cols, cols);
      loadRanks(loadRangeOf, begin, end - begin, stored);
    }
    const auto same = [](const auto& a, const auto& b) {
      for (const auto part : {&std::decay_t<decltype(a)>::data, &std::decay_t<decltype(a)>::scale,
                              &std::decay_t<decltype(a)>::zero}) {
        if (!std::equal((a.*part).data(), (a.*part).data() + (a.*part).size(), (b.*part).data())) return false;
      }
      return true;
    };
    CHECK(same(rows, setRange) && same(rows, loadRange));
    CHECK(same(panels, setRangeOf) && same(panels, loadRangeOf));
  }
  RowMatrix rows = allocateRows(2, 4, Dtype::f32);
  CHECK_THROWS(code::internal, setRows(rows, 1, 2, nullptr, 4));
}

TEST("stored form: int4 is low nibble first, and a stray high nibble of the last byte changes nothing") {
  std::vector<float> w(33, 0.0f);
  w[0] = 15.0f;
  w[1] = 7.0f;
  w[32] = 15.0f;
  RowMatrix matrix = makeRows(w.data(), 1, 33, 33, Dtype::int4);
  StoredRow stored;
  storeRow(matrix, 0, stored);
  CHECK_EQUAL(static_cast<int>(stored.data[0]), 0x7f);
  CHECK_EQUAL(static_cast<int>(stored.data[16]), 0x0f);
  const std::vector<uint8_t> clean(matrix.data.data(), matrix.data.data() + matrix.data.size());
  stored.data[16] = 0x9f;
  loadRows(matrix, 0, 1, stored);
  CHECK(std::equal(clean.begin(), clean.end(), matrix.data.data()));
}

TEST("matrix: sizes that overflow and lines that do not exist are refused") {
  CHECK_THROWS(code::internal, allocateRows(int64_t{1} << 40, int64_t{1} << 40, Dtype::f32));
  CHECK_THROWS(code::internal, allocatePanels(-1, 4, Dtype::f32));
  const RowMatrix rows = allocateRows(2, 4, Dtype::f32);
  const PanelMatrix panels = allocatePanels(2, 4, Dtype::int4);
  std::vector<float> out(4);
  CHECK_THROWS(code::internal, getRow(rows, 2, out.data()));
  CHECK_THROWS(code::internal, getRank(panels, -1, out.data()));
}
