#include "tensor/source.h"

#include <cstring>

#include "core/error.h"

namespace flrc {
namespace {

constexpr struct {
  const char* name;
  SourceType type;
  TypeLayout layout;
} kTypes[] = {
    {"F64", SourceType::f64, {1, 8}},
    {"F32", SourceType::f32, {1, 4}},
    {"F16", SourceType::f16, {1, 2}},
    {"BF16", SourceType::bf16, {1, 2}},
    {"I32", SourceType::i32, {1, 4}},
    {"I8", SourceType::i8, {1, 1}},
    {"U8", SourceType::u8, {1, 1}},
    {"Q8_0", SourceType::q8_0, {32, 34}},
    {"Q4_0", SourceType::q4_0, {32, 18}},
    {"Q4_1", SourceType::q4_1, {32, 20}},
    {"Q5_0", SourceType::q5_0, {32, 22}},
    {"Q5_1", SourceType::q5_1, {32, 24}},
    {"Q4_K", SourceType::q4_k, {256, 144}},
    {"Q5_K", SourceType::q5_k, {256, 176}},
    {"Q6_K", SourceType::q6_k, {256, 210}},
    {"Q2_K", SourceType::q2_k, {256, 84}},
    {"Q3_K", SourceType::q3_k, {256, 110}},
    {"IQ4_NL", SourceType::iq4_nl, {32, 18}},
    {"IQ4_XS", SourceType::iq4_xs, {256, 136}},
};

// Whether no value has all bits of its exponent set. Written so that compilers turn the loop into vectors.
template <typename Bits>
bool allFinite(const void* values, int64_t count, Bits exponent) {
  const auto* at = static_cast<const uint8_t*>(values);
  Bits special = 0;
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, at + i * static_cast<int64_t>(sizeof(Bits)), sizeof(Bits));
    special |= static_cast<Bits>((bits & exponent) == exponent);
  }
  return special == 0;
}

std::string remedy() { return "; the file is damaged or still being written: fetch it again"; }

}  // namespace

SourceType sourceType(const std::string& name) {
  for (const auto& entry : kTypes) {
    if (name == entry.name) return entry.type;
  }
  throw Error(code::modelFormat, "unknown tensor type " + name);
}

TypeLayout typeLayout(SourceType type) { return kTypes[static_cast<int>(type)].layout; }

int64_t TensorSource::cols() const { return shape.empty() ? 1 : shape.back(); }

int64_t TensorSource::rows() const {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) {
    if (shape[i] < 0 || __builtin_mul_overflow(rows, shape[i], &rows)) {
      throw Error(code::modelFormat, "the shape of " + name + " is impossible", file, name);
    }
  }
  return rows;
}

SourceFile::SourceFile(const std::string& path) : path_(path), file_(path, platform::File::Use::read) {
  if (!file_.isOpen()) throw Error(code::io, path + " cannot be opened: " + platform::lastError(), path);
}

void SourceFile::read(int64_t offset, int64_t bytes, void* out, const std::string& tensor) const {
  auto* at = static_cast<uint8_t*>(out);
  while (bytes > 0) {
    const int64_t got = file_.read(offset, at, bytes);
    if (got < 0) {
      throw Error(code::io, path_ + ": reading " + tensor + " failed: " + platform::lastError(), path_, tensor);
    }
    if (got == 0) {
      throw Error(code::modelFormat, path_ + " ends inside tensor " + tensor + remedy(), path_, tensor);
    }
    at += got;
    offset += got;
    bytes -= got;
  }
}

TensorReader::TensorReader(TensorSource source, std::shared_ptr<const SourceFile> file)
    : source_(std::move(source)), file_(std::move(file)), rowBytes_(0) {
  // A bias is reordered like the rows of its weight.
  if (source_.interleavedHeads != 0 && source_.shape.size() == 1) source_.shape.push_back(1);
  const TypeLayout layout = typeLayout(source_.type);
  const int64_t cols = source_.cols(), rows = source_.rows();
  int64_t need = 0;
  const bool whole = cols >= 0 && cols % layout.blockValues == 0;
  if (!whole || __builtin_mul_overflow(cols / layout.blockValues, layout.blockBytes, &rowBytes_) ||
      __builtin_mul_overflow(rowBytes_, rows, &need) || need != source_.byteLength || source_.offset < 0) {
    throw Error(code::modelFormat,
                source_.file + ": the size of " + source_.name + " does not fit its shape and type",
                source_.file, source_.name);
  }
  if (source_.interleavedHeads != 0 && (source_.interleavedHeads < 0 || source_.interleavedHeads > rows ||
                                        rows % (2 * source_.interleavedHeads) != 0)) {
    throw Error(code::modelFormat, source_.file + ": the rows of " + source_.name + " do not divide into heads",
                source_.file, source_.name);
  }
}

// llama.cpp stores row pairs (i, i + half) of a head side by side; Hugging Face keeps the halves apart.
int64_t TensorReader::fileRow(int64_t row) const {
  if (source_.interleavedHeads == 0) return row;
  const int64_t perHead = source_.rows() / source_.interleavedHeads;
  const int64_t head = row / perHead, inHead = row % perHead, half = perHead / 2;
  return head * perHead + (inHead % half) * 2 + inHead / half;
}

void TensorReader::readBytes(int64_t begin, int64_t count, std::vector<uint8_t>& out) const {
  out.resize(static_cast<size_t>(count * rowBytes_));
  if (source_.interleavedHeads == 0) {
    file_->read(source_.offset + begin * rowBytes_, count * rowBytes_, out.data(), source_.name);
    return;
  }
  for (int64_t r = 0; r < count; ++r) {
    file_->read(source_.offset + fileRow(begin + r) * rowBytes_, rowBytes_, out.data() + r * rowBytes_,
                source_.name);
  }
}

void TensorReader::readStored(int64_t begin, int64_t count, std::vector<uint8_t>& out) const {
  readBytes(begin, count, out);
  const int64_t values = count * source_.cols();
  const bool finite = source_.type == SourceType::bf16 ? allFinite<uint16_t>(out.data(), values, 0x7f80)
                                                       : allFinite<uint32_t>(out.data(), values, 0x7f800000);
  if (!finite) notFinite();
}

void TensorReader::readRows(int64_t begin, int64_t count, float* out) const {
  std::vector<uint8_t> bytes;
  readRows(begin, count, out, bytes);
}

void TensorReader::readRows(int64_t begin, int64_t count, float* out, std::vector<uint8_t>& bytes) const {
  readBytes(begin, count, bytes);
  const int64_t values = count * source_.cols();
  toFloat(source_.type, bytes.data(), values, out);
  if (!allFinite<uint32_t>(out, values, 0x7f800000)) notFinite();
  if (source_.excess == 0) return;
  for (int64_t i = 0; i < values; ++i) out[i] -= static_cast<float>(source_.excess);
}

void TensorReader::expectType(SourceType type) const {
  if (source_.type == type) return;
  throw Error(code::modelFormat, source_.file + ": " + source_.name + " has an unexpected type", source_.file,
              source_.name);
}

void TensorReader::notFinite() const {
  throw Error(code::numeric,
              source_.file + ": " + source_.name + " holds NaN or infinite values; the file is damaged",
              source_.file, source_.name);
}

}  // namespace flrc
