#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace flrc {

// The stable codes of lib/errors.ts that native work can raise.
namespace code {
inline constexpr const char* modelFormat = "E_MODEL_FORMAT";
inline constexpr const char* outOfMemory = "E_OUT_OF_MEMORY";
inline constexpr const char* aborted = "E_ABORTED";
inline constexpr const char* io = "E_IO";
inline constexpr const char* numeric = "E_NUMERIC";
inline constexpr const char* context = "E_CONTEXT";
inline constexpr const char* device = "E_DEVICE";
inline constexpr const char* internal = "E_INTERNAL";
}  // namespace code

// A failure that reaches JavaScript as an FlrcError: a stable code, and the file and tensor where known.
class Error : public std::runtime_error {
 public:
  Error(const char* errorCode, const std::string& message, std::string errorFile = {},
        std::string errorTensor = {})
      : std::runtime_error(message),
        code(errorCode),
        file(std::move(errorFile)),
        tensor(std::move(errorTensor)) {}

  const char* code;
  std::string file;
  std::string tensor;
};

}  // namespace flrc
