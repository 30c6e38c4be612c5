#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/job.h"

namespace flrc {

// One tensor as a file stores it.
struct TensorEntry {
  std::string name;
  const char* type;  // safetensors dtype
  std::vector<int64_t> shape;
  int64_t byteLength;
};

// One tensor to be written, its bytes made when they are.
struct TensorOutput {
  TensorEntry entry;
  std::function<std::vector<uint8_t>()> bytes;

  TensorOutput(std::string name, const char* type, std::vector<int64_t> shape,
               std::function<std::vector<uint8_t>()> bytes);
};

template <typename T>
std::vector<uint8_t> rawBytes(const T* values, size_t count) {
  const auto* at = reinterpret_cast<const uint8_t*>(values);
  return std::vector<uint8_t>(at, at + count * sizeof(T));
}
template <typename T>
std::vector<uint8_t> rawBytes(const std::vector<T>& values) {
  return rawBytes(values.data(), values.size());
}

std::vector<TensorEntry> entriesOf(const std::vector<TensorOutput>& outputs);

// Writes those of these names at these absolute offsets of an existing file, then flushes it to the disk. E_IO
// names the file.
void writeOutputs(const std::vector<TensorOutput>& outputs, const std::string& file,
                  const std::vector<std::string>& names, const std::vector<int64_t>& offsets, const Job& job);

}  // namespace flrc
