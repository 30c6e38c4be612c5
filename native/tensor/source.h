#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "platform/file.h"

namespace flrc {

// How a tensor's numbers lie in its file (lib/format/types.ts TensorType); GGUF block types by GGML's names.
enum class SourceType : int32_t {
  f64,
  f32,
  f16,
  bf16,
  i32,
  i8,
  u8,
  q8_0,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q4_k,
  q5_k,
  q6_k,
  q2_k,
  q3_k,
  iq4_nl,
  iq4_xs
};

// Throws E_MODEL_FORMAT for a name that is none of them.
SourceType sourceType(const std::string& name);

struct TypeLayout {
  int64_t blockValues;  // values in one block
  int64_t blockBytes;
};
TypeLayout typeLayout(SourceType type);

// Where one tensor lies, as told by TypeScript and checked again here.
struct TensorSource {
  std::string name;
  std::string file;
  int64_t offset = 0;
  int64_t byteLength = 0;
  SourceType type = SourceType::f32;
  std::vector<int64_t> shape;    // outermost first
  int64_t interleavedHeads = 0;  // rows are llama.cpp's rotary pairs over this many heads; 0: as they are
  std::string storedName;        // what the file calls it, where that is another name
  double excess = 0;             // what the file's values have beyond Hugging Face's

  int64_t rows() const;  // product of all but the last dimension
  int64_t cols() const;  // last dimension, 1 for a scalar
};

// An open file, read and not mapped, so that one that shrinks gives an error and no signal.
class SourceFile {
 public:
  explicit SourceFile(const std::string& path);
  // Exactly `bytes` bytes at `offset`, or E_IO / E_MODEL_FORMAT naming the file and `tensor`.
  void read(int64_t offset, int64_t bytes, void* out, const std::string& tensor) const;

 private:
  std::string path_;
  platform::File file_;
};

// Rows of a tensor as f32, in Hugging Face order. Thread-safe.
class TensorReader {
 public:
  // E_MODEL_FORMAT unless the byte length is just what type and shape need.
  TensorReader(TensorSource source, std::shared_ptr<const SourceFile> file);
  const TensorSource& source() const { return source_; }
  // E_MODEL_FORMAT for a tensor of another type.
  void expectType(SourceType type) const;
  // Rows [begin, begin + count) to out [count, cols]. A NaN or infinite weight is E_NUMERIC. `bytes` is memory
  // to work in, for those who read often.
  void readRows(int64_t begin, int64_t count, float* out) const;
  void readRows(int64_t begin, int64_t count, float* out, std::vector<uint8_t>& bytes) const;
  // The stored bytes of rows [begin, begin + count) as they are, and the same of weights in f32 or bf16, where
  // a NaN or infinite one is E_NUMERIC.
  void readBytes(int64_t begin, int64_t count, std::vector<uint8_t>& out) const;
  void readStored(int64_t begin, int64_t count, std::vector<uint8_t>& out) const;

 private:
  int64_t fileRow(int64_t row) const;
  [[noreturn]] void notFinite() const;

  TensorSource source_;
  std::shared_ptr<const SourceFile> file_;
  int64_t rowBytes_;
};

// `count` values of `type` to f32; count is a multiple of the type's block. Layouts as GGML defines them.
void toFloat(SourceType type, const uint8_t* bytes, int64_t count, float* out);

}  // namespace flrc
