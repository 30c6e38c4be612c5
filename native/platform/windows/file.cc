#include "platform/file.h"

#include <windows.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "platform/windows/text.h"

namespace flrc::platform {
namespace {

// More at once is not known to be taken everywhere.
constexpr int64_t kLongest = int64_t{1} << 30;
// As on other systems, who holds a file open keeps nobody from renaming or removing it.
constexpr DWORD kShared = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;

HANDLE handle(intptr_t value) { return reinterpret_cast<HANDLE>(value); }

intptr_t create(const std::string& path, DWORD access, DWORD disposition, DWORD flags) {
  return reinterpret_cast<intptr_t>(
      CreateFileW(widePath(path).c_str(), access, kShared, nullptr, disposition, flags, nullptr));
}

intptr_t openFile(const std::string& path, File::Use use) {
  switch (use) {
    case File::Use::read:
      return create(path, GENERIC_READ, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL);
    case File::Use::write:
      return create(path, GENERIC_WRITE, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL);
    default:
      return create(path, GENERIC_WRITE, CREATE_ALWAYS, FILE_ATTRIBUTE_NORMAL);
  }
}

OVERLAPPED placeAt(int64_t offset) {
  OVERLAPPED place{};
  place.Offset = static_cast<DWORD>(offset);
  place.OffsetHigh = static_cast<DWORD>(offset >> 32);
  return place;
}

// Whether a file that may not be opened is one that is just being removed, which another has had until now. The
// system says the same of a folder that may not be written, of a directory, and of a file that may only be
// read.
bool beingRemoved(const std::string& path) {
  const DWORD attributes = GetFileAttributesW(widePath(path).c_str());
  constexpr DWORD kNoLock = FILE_ATTRIBUTE_DIRECTORY | FILE_ATTRIBUTE_READONLY;
  if (attributes != INVALID_FILE_ATTRIBUTES && (attributes & kNoLock) != 0) {
    SetLastError(ERROR_ACCESS_DENIED);
    return false;
  }
  const size_t end = path.find_last_of("\\/");
  return File::scratch(end == std::string::npos ? "." : path.substr(0, end)).isOpen();
}

DWORD pieceOf(int64_t bytes) { return static_cast<DWORD>(std::min(bytes, kLongest)); }

}  // namespace

File::File(const std::string& path, Use use) : handle_(openFile(path, use)) {}

File File::scratch(const std::string& directory) {
  static std::atomic<unsigned> made{0};
  constexpr DWORD kFlags = FILE_ATTRIBUTE_TEMPORARY | FILE_FLAG_DELETE_ON_CLOSE;
  const std::string begin = directory + "\\flrc-" + std::to_string(GetCurrentProcessId()) + "-";
  for (;;) {
    const std::string path = begin + std::to_string(made.fetch_add(1));
    File file(create(path, GENERIC_READ | GENERIC_WRITE, CREATE_NEW, kFlags));
    if (file.isOpen() || GetLastError() != ERROR_FILE_EXISTS) return file;
  }
}

File::~File() {
  if (isOpen()) CloseHandle(handle(handle_));
}

File::File(File&& other) noexcept : handle_(std::exchange(other.handle_, -1)) {}

bool File::isOpen() const { return handle(handle_) != INVALID_HANDLE_VALUE; }

int64_t File::size() const {
  LARGE_INTEGER size{};
  return GetFileSizeEx(handle(handle_), &size) ? size.QuadPart : -1;
}

int64_t File::read(int64_t offset, void* data, int64_t bytes) const {
  OVERLAPPED place = placeAt(offset);
  DWORD got = 0;
  if (ReadFile(handle(handle_), data, pieceOf(bytes), &got, &place)) return got;
  return GetLastError() == ERROR_HANDLE_EOF ? 0 : -1;
}

bool File::write(int64_t offset, const void* data, int64_t bytes) {
  const auto* at = static_cast<const uint8_t*>(data);
  while (bytes > 0) {
    OVERLAPPED place = placeAt(offset);
    DWORD done = 0;
    if (!WriteFile(handle(handle_), at, pieceOf(bytes), &done, &place) || done == 0) return false;
    at += done;
    offset += done;
    bytes -= done;
  }
  return true;
}

bool File::flush() { return FlushFileBuffers(handle(handle_)) != 0; }

FileLock::FileLock(const std::string& path) : path_(path) {
  constexpr DWORD kFlags = FILE_ATTRIBUTE_NORMAL | FILE_FLAG_DELETE_ON_CLOSE;
  // What is opened for nobody to share is a lock already.
  handle_ = reinterpret_cast<intptr_t>(CreateFileW(widePath(path).c_str(), GENERIC_READ | GENERIC_WRITE, 0,
                                                   nullptr, OPEN_ALWAYS, kFlags, nullptr));
  const DWORD error = GetLastError();
  if (handle(handle_) != INVALID_HANDLE_VALUE) {
    state_ = State::held;
  } else if (error == ERROR_SHARING_VIOLATION || (error == ERROR_ACCESS_DENIED && beingRemoved(path))) {
    state_ = State::taken;
  }
}

FileLock::~FileLock() {
  if (state_ == State::held) CloseHandle(handle(handle_));
}

bool replaceFile(const std::string& from, const std::string& to) {
  constexpr DWORD kFlags = MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH;
  return MoveFileExW(widePath(from).c_str(), widePath(to).c_str(), kFlags) != 0;
}

bool removeFile(const std::string& path) { return DeleteFileW(widePath(path).c_str()) != 0; }

std::string lastError() { return errorText(GetLastError()); }

}  // namespace flrc::platform
