#include "platform/windows/text.h"

#include <windows.h>

namespace flrc::platform {
namespace {

// Directories have an even smaller limit than MAX_PATH: by the length of a short file name.
constexpr size_t kShort = MAX_PATH - 12;

std::wstring wide(const std::string& text) {
  const int length = static_cast<int>(text.size());
  std::wstring result(static_cast<size_t>(MultiByteToWideChar(CP_UTF8, 0, text.data(), length, nullptr, 0)),
                      L'\0');
  MultiByteToWideChar(CP_UTF8, 0, text.data(), length, result.data(), static_cast<int>(result.size()));
  return result;
}

std::string narrow(const wchar_t* text, int length) {
  const int bytes = WideCharToMultiByte(CP_UTF8, 0, text, length, nullptr, 0, nullptr, nullptr);
  std::string result(static_cast<size_t>(bytes), '\0');
  WideCharToMultiByte(CP_UTF8, 0, text, length, result.data(), bytes, nullptr, nullptr);
  return result;
}

}  // namespace

std::wstring widePath(const std::string& path) {
  std::wstring given = wide(path);
  if (given.size() < kShort || given.rfind(L"\\\\?\\", 0) == 0) return given;
  std::wstring full(GetFullPathNameW(given.c_str(), 0, nullptr, nullptr), L'\0');
  full.resize(GetFullPathNameW(given.c_str(), static_cast<DWORD>(full.size()), full.data(), nullptr));
  if (full.rfind(L"\\\\", 0) == 0) return L"\\\\?\\UNC\\" + full.substr(2);
  return L"\\\\?\\" + full;
}

std::string errorText(unsigned long error) {
  constexpr DWORD kFlags = FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS;
  wchar_t buffer[512];
  DWORD length =
      FormatMessageW(kFlags, nullptr, error, 0, buffer, static_cast<DWORD>(std::size(buffer)), nullptr);
  while (length > 0 &&
         (buffer[length - 1] == L'\n' || buffer[length - 1] == L'\r' || buffer[length - 1] == L'.'))
    --length;
  if (length == 0) return "system error " + std::to_string(error);
  return narrow(buffer, static_cast<int>(length));
}

}  // namespace flrc::platform
