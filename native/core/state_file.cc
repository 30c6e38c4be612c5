#include "core/state_file.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/error.h"

namespace flrc {
namespace {

constexpr char kMark[8] = {'F', 'L', 'R', 'C', 'S', 'T', 'A', '1'};
constexpr uint64_t kLongestNote = 64u << 20;
// Bytes between two looks at whether the work was cancelled.
constexpr int64_t kPiece = 8 << 20;

}  // namespace

StateWriter::StateWriter(const std::string& file, const std::string& note, const Job& job)
    : file_(file), job_(job), to_(file, platform::File::Use::create) {
  if (!to_.isOpen()) fail("cannot be made");
  const uint64_t length = note.size();
  write(kMark, sizeof kMark);
  write(&length, sizeof length);
  write(note.data(), note.size());
}

void StateWriter::fail(const char* what) const {
  throw Error(code::io,
              file_ + " " + what + ": " + platform::lastError() +
                  "; free some space, or choose an output directory on a larger disk",
              file_);
}

void StateWriter::write(const void* data, size_t bytes) {
  sum_.add(data, bytes);
  put(data, bytes);
}

void StateWriter::put(const void* data, size_t bytes) {
  const auto* at = static_cast<const uint8_t*>(data);
  for (auto left = static_cast<int64_t>(bytes); left > 0;) {
    job_.check();
    const int64_t piece = std::min(left, kPiece);
    if (!to_.write(end_, at, piece)) fail("cannot be written");
    at += piece;
    end_ += piece;
    left -= piece;
  }
}

void StateWriter::finish() {
  const uint64_t sum = sum_.value();
  put(&sum, sizeof sum);
  if (!to_.flush()) fail("cannot be flushed to disk");
}

StateReader::StateReader(const std::string& file, const std::string& whole, const Job& job)
    : file_(file), whole_(whole), job_(job), from_(file, platform::File::Use::read) {
  if (!from_.isOpen()) fail("cannot be opened");
  const int64_t size = from_.size();
  if (size < 0) fail("cannot be read");
  char mark[sizeof kMark];
  uint64_t length = 0;
  if (size < static_cast<int64_t>(sizeof mark + sizeof length + sizeof sum_.value())) refuse();
  end_ = size - static_cast<int64_t>(sizeof sum_.value());
  read(mark, sizeof mark);
  read(&length, sizeof length);
  if (std::memcmp(mark, kMark, sizeof mark) != 0 || length > remaining() || length > kLongestNote) refuse();
  note_.resize(static_cast<size_t>(length));
  read(note_.data(), note_.size());
}

void StateReader::fail(const char* what) const {
  throw Error(code::io,
              file_ + " " + what + ": " + platform::lastError() + "; remove " + whole_ +
                  ", or run again without --resume",
              file_);
}

void StateReader::refuse() const {
  throw Error(
      code::modelFormat,
      file_ + " is damaged, or the state of another run; remove " + whole_ + ", or run again without --resume",
      file_);
}

void StateReader::read(void* data, size_t bytes) {
  if (bytes > remaining()) refuse();
  get(data, bytes);
  sum_.add(data, bytes);
}

void StateReader::finish() {
  uint64_t sum = 0;
  if (remaining() != 0) refuse();
  get(&sum, sizeof sum);
  if (sum != sum_.value()) refuse();
}

void StateReader::get(void* data, size_t bytes) {
  auto* at = static_cast<uint8_t*>(data);
  for (auto left = static_cast<int64_t>(bytes); left > 0;) {
    job_.check();
    const int64_t done = from_.read(at_, at, std::min(left, kPiece));
    if (done < 0) fail("cannot be read");
    if (done == 0) refuse();
    at += done;
    at_ += done;
    left -= done;
  }
}

}  // namespace flrc
