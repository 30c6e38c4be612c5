#include "recover/state_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "core/error.h"

namespace flrc {
namespace {

constexpr char kMark[8] = {'F', 'L', 'R', 'C', 'R', 'E', 'C', '1'};
constexpr uint64_t kLongestNote = 64u << 20;
// Bytes between two looks at whether the work was cancelled.
constexpr size_t kPiece = 8u << 20;

}  // namespace

Descriptor::~Descriptor() {
  if (fd_ >= 0) close(fd_);
}

StateWriter::StateWriter(const std::string& file, const std::string& note, const Job& job)
    : file_(file), job_(job), fd_(open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {
  if (fd_ < 0) fail("cannot be made");
  const uint64_t length = note.size();
  write(kMark, sizeof kMark);
  write(&length, sizeof length);
  write(note.data(), note.size());
}

void StateWriter::fail(const char* what) const {
  throw Error(code::io,
              file_ + " " + what + ": " + std::strerror(errno) +
                  "; free some space, or choose an output directory on a larger disk",
              file_);
}

void StateWriter::write(const void* data, size_t bytes) {
  const auto* at = static_cast<const uint8_t*>(data);
  while (bytes > 0) {
    job_.check();
    const ssize_t done = ::write(fd_, at, std::min(bytes, kPiece));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) fail("cannot be written");
    at += done;
    bytes -= static_cast<size_t>(done);
  }
}

void StateWriter::finish() {
  if (fsync(fd_) != 0) fail("cannot be flushed to disk");
}

StateReader::StateReader(const std::string& file, const Job& job)
    : file_(file), job_(job), fd_(open(file.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (fd_ < 0) fail("cannot be opened");
  struct stat status {};
  if (fstat(fd_, &status) != 0) fail("cannot be read");
  remaining_ = static_cast<size_t>(status.st_size);
  char mark[sizeof kMark];
  uint64_t length = 0;
  if (remaining_ < sizeof mark + sizeof length) refuse();
  read(mark, sizeof mark);
  read(&length, sizeof length);
  if (std::memcmp(mark, kMark, sizeof mark) != 0 || length > remaining_ || length > kLongestNote) refuse();
  note_.resize(static_cast<size_t>(length));
  read(note_.data(), note_.size());
}

void StateReader::fail(const char* what) const {
  throw Error(code::io, file_ + " " + what + ": " + std::strerror(errno) + "; run again without --resume",
              file_);
}

void StateReader::refuse() const {
  throw Error(code::modelFormat, file_ + " is not the whole state of this recovery; run again without --resume",
              file_);
}

void StateReader::read(void* data, size_t bytes) {
  if (bytes > remaining_) refuse();
  remaining_ -= bytes;
  auto* at = static_cast<uint8_t*>(data);
  while (bytes > 0) {
    job_.check();
    const ssize_t done = ::read(fd_, at, std::min(bytes, kPiece));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail("cannot be read");
    if (done == 0) refuse();
    at += done;
    bytes -= static_cast<size_t>(done);
  }
}

}  // namespace flrc
