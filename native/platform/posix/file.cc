#include "platform/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace flrc::platform {
namespace {

int flagsOf(File::Use use) {
  switch (use) {
    case File::Use::read:
      return O_RDONLY;
    case File::Use::write:
      return O_WRONLY;
    default:
      return O_WRONLY | O_CREAT | O_TRUNC;
  }
}

int descriptor(intptr_t handle) { return static_cast<int>(handle); }

}  // namespace

File::File(const std::string& path, Use use) : handle_(open(path.c_str(), flagsOf(use) | O_CLOEXEC, 0644)) {}

File File::scratch(const std::string& directory) {
  std::string path = directory + "/flrc-XXXXXX";
  const int fd = mkstemp(path.data());
  if (fd >= 0) {
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    unlink(path.c_str());
  }
  return File(fd);
}

File::~File() {
  if (isOpen()) close(descriptor(handle_));
}

File::File(File&& other) noexcept : handle_(std::exchange(other.handle_, -1)) {}

bool File::isOpen() const { return handle_ >= 0; }

int64_t File::size() const {
  struct stat status {};
  return fstat(descriptor(handle_), &status) == 0 ? static_cast<int64_t>(status.st_size) : -1;
}

int64_t File::read(int64_t offset, void* data, int64_t bytes) const {
  for (;;) {
    const ssize_t got = pread(descriptor(handle_), data, static_cast<size_t>(bytes), offset);
    if (got >= 0 || errno != EINTR) return got;
  }
}

bool File::write(int64_t offset, const void* data, int64_t bytes) {
  const auto* at = static_cast<const uint8_t*>(data);
  while (bytes > 0) {
    const ssize_t done = pwrite(descriptor(handle_), at, static_cast<size_t>(bytes), offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    at += done;
    offset += done;
    bytes -= done;
  }
  return true;
}

bool File::flush() { return fsync(descriptor(handle_)) == 0; }

FileLock::FileLock(const std::string& path) : path_(path) {
  // As often as others may have it between two looks; where files have no lasting identity, it would never end.
  constexpr int kTries = 100;
  for (int i = 0; i < kTries; ++i) {
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      close(fd);
      state_ = State::taken;
      return;
    }
    // Whoever held it may have removed it since it was opened here, and another made it anew.
    struct stat opened {
    }, there{};
    const bool same = fstat(fd, &opened) == 0 && stat(path.c_str(), &there) == 0 &&
                      opened.st_dev == there.st_dev && opened.st_ino == there.st_ino;
    if (same) {
      handle_ = fd;
      state_ = State::held;
      return;
    }
    close(fd);
  }
  state_ = State::taken;
}

FileLock::~FileLock() {
  if (state_ != State::held) return;
  unlink(path_.c_str());
  close(descriptor(handle_));
}

bool replaceFile(const std::string& from, const std::string& to) {
  return rename(from.c_str(), to.c_str()) == 0;
}

bool removeFile(const std::string& path) { return unlink(path.c_str()) == 0; }

std::string lastError() { return std::strerror(errno); }

}  // namespace flrc::platform
