// Tensors as files hold them: types, row orders, damage.
#include "tensor/source.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "check.h"
#include "fixture.h"
#include "temporary.h"

using flrc::SourceFile;
using flrc::SourceType;
using flrc::TensorReader;
using flrc::TensorSource;

namespace {

// A file of floats that is gone with the test.
class FloatFile {
 public:
  explicit FloatFile(const std::vector<float>& values) {
    std::ofstream(name_.place, std::ios::binary)
        .write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * 4));
  }

  TensorReader reader(std::vector<int64_t> shape, int64_t interleavedHeads = 0,
                      SourceType type = SourceType::f32) const {
    TensorSource source;
    source.name = "w";
    source.file = path();
    source.shape = std::move(shape);
    source.type = type;
    source.byteLength = flrc::typeLayout(type).blockBytes;
    for (int64_t extent : source.shape) source.byteLength *= extent;
    source.interleavedHeads = interleavedHeads;
    return TensorReader(source, std::make_shared<SourceFile>(path()));
  }

  const std::string& path() const { return name_.path; }

 private:
  const temporary::File name_;
};

std::vector<float> counting(int count) {
  std::vector<float> values;
  for (int i = 0; i < count; ++i) values.push_back(static_cast<float>(i));
  return values;
}

}  // namespace

TEST("source: every GGUF type gives the gguf package's values") {
  const auto expected = fixture::arrays("test/fixtures/pytorch/dequant.safetensors");
  for (const char* type : {"F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K",
                           "Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS"}) {
    const auto& wide = expected.at(std::string(type) + ".bytes").values;
    const auto& values = expected.at(std::string(type) + ".values").values;
    const std::vector<uint8_t> bytes(wide.begin(), wide.end());
    std::vector<float> got(values.size());
    flrc::toFloat(flrc::sourceType(type), bytes.data(), static_cast<int64_t>(got.size()), got.data());
    for (size_t i = 0; i < got.size(); ++i) {
      // The package rounds in the order of its formula, which is ours but for the k-quants' last product.
      CHECK_NEAR(got[i], values[i], std::abs(values[i]) * 1e-6 + 1e-9);
    }
  }
}

TEST("source: doubles narrow, and are an error beyond a float") {
  const double values[] = {0.1, -1e30, 1e39};
  float out[3];
  flrc::toFloat(SourceType::f64, reinterpret_cast<const uint8_t*>(values), 3, out);
  CHECK_EQUAL(out[0], 0.1f);
  CHECK_EQUAL(out[1], -1e30f);
  std::vector<float> pairs(6);
  std::memcpy(pairs.data(), values, sizeof values);
  const FloatFile file(pairs);
  file.reader({3, 1}, 0, SourceType::f64).readRows(0, 2, out);
  CHECK_EQUAL(out[0], 0.1f);
  CHECK_THROWS("E_NUMERIC", file.reader({3, 1}, 0, SourceType::f64).readRows(0, 3, out));
}

TEST("source: integer types widen") {
  const int32_t whole[] = {-7, 1 << 20};
  const uint8_t small[] = {0, 200};
  float out[2];
  flrc::toFloat(SourceType::i32, reinterpret_cast<const uint8_t*>(whole), 2, out);
  CHECK_EQUAL(out[0], -7.0f);
  CHECK_EQUAL(out[1], 1048576.0f);
  flrc::toFloat(SourceType::i8, small, 2, out);
  CHECK_EQUAL(out[1], -56.0f);
  flrc::toFloat(SourceType::u8, small, 2, out);
  CHECK_EQUAL(out[1], 200.0f);
}

TEST("source: interleaved rotary rows come back in halves, head by head") {
  // 2 heads of 4 rows: the file holds (0, 2, 1, 3) of each head as rows 0..3.
  const FloatFile file(counting(16));
  std::vector<float> rows(16);
  file.reader({8, 2}, 2).readRows(0, 8, rows.data());
  const std::vector<float> expected = {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};
  CHECK(rows == expected);
  std::vector<float> bias(8);
  file.reader({8}, 2).readRows(0, 8, bias.data());
  const std::vector<float> expectedBias = {0, 2, 1, 3, 4, 6, 5, 7};
  CHECK(bias == expectedBias);
}

TEST("source: what a file's values have beyond the published ones is taken off") {
  const FloatFile file(counting(6));
  TensorSource source = file.reader({6}).source();
  source.excess = 1;
  std::vector<float> values(6);
  TensorReader(source, std::make_shared<SourceFile>(file.path())).readRows(0, 1, values.data());
  CHECK(values == (std::vector<float>{-1, 0, 1, 2, 3, 4}));
}

TEST("source: a range of rows is read where it lies") {
  const FloatFile file(counting(12));
  std::vector<float> rows(6);
  file.reader({4, 3}).readRows(1, 2, rows.data());
  CHECK(rows == (std::vector<float>{3, 4, 5, 6, 7, 8}));
}

TEST("source: a file that ends early is an error that names file and tensor") {
  const FloatFile file(counting(6));
  std::vector<float> rows(12);
  const TensorReader reader = file.reader({4, 3});
  try {
    reader.readRows(0, 4, rows.data());
    CHECK(false);
  } catch (const flrc::Error& error) {
    CHECK_EQUAL(std::string(error.code), "E_MODEL_FORMAT");
    CHECK_EQUAL(error.file, file.path());
    CHECK_EQUAL(error.tensor, "w");
  }
}

TEST("source: NaN and infinite weights are refused") {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto values = counting(6);
    values[4] = bad;
    const FloatFile file(values);
    std::vector<float> rows(6);
    CHECK_THROWS("E_NUMERIC", file.reader({2, 3}).readRows(0, 2, rows.data()));
    std::vector<uint8_t> stored;
    CHECK_THROWS("E_NUMERIC", file.reader({2, 3}).readStored(0, 2, stored));
    // The same bytes as bf16: the high half of a float is one.
    CHECK_THROWS("E_NUMERIC", file.reader({2, 6}, 0, SourceType::bf16).readStored(0, 2, stored));
    file.reader({2, 6}, 0, SourceType::bf16).readStored(0, 1, stored);
    CHECK_EQUAL(stored.size(), 12u);
  }
}

TEST("source: sizes that do not fit shape and type, and impossible shapes, are refused") {
  const FloatFile file(counting(12));
  TensorSource source;
  source.name = "w";
  source.file = file.path();
  const auto open = std::make_shared<SourceFile>(file.path());
  const auto refuse = [&](std::vector<int64_t> shape, SourceType type, int64_t bytes, int64_t heads) {
    source.shape = std::move(shape);
    source.type = type;
    source.byteLength = bytes;
    source.interleavedHeads = heads;
    CHECK_THROWS("E_MODEL_FORMAT", TensorReader(source, open));
  };
  refuse({3, 3}, SourceType::f32, 48, 0);
  refuse({1, 31}, SourceType::q8_0, 34, 0);
  refuse({int64_t{1} << 40, int64_t{1} << 40}, SourceType::f32, 48, 0);
  refuse({-3, 4}, SourceType::f32, 48, 0);
  refuse({4, 3}, SourceType::f32, 48, 3);
  refuse({4, 3}, SourceType::f32, 48, -1);
  CHECK_THROWS("E_IO", SourceFile("/nowhere/at/all"));
}
