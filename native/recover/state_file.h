#pragma once

#include <cstddef>
#include <string>

#include "core/job.h"

namespace flrc {

// An open file, closed with its owner.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  operator int() const { return fd_; }

 private:
  int fd_;
};

// The state of an interrupted training: a mark, the length of a note and the note, then arrays one after
// another, as this machine holds them. E_IO names the file. The job is that of the call which reads or writes.
class StateWriter {
 public:
  // Makes the file, or empties it.
  StateWriter(const std::string& file, const std::string& note, const Job& job);
  void write(const void* data, size_t bytes);
  // Flushes to the disk.
  void finish();

 private:
  [[noreturn]] void fail(const char* what) const;
  std::string file_;
  const Job& job_;
  Descriptor fd_;
};

class StateReader {
 public:
  StateReader(const std::string& file, const Job& job);
  const std::string& note() const { return note_; }
  // Bytes that are left to read.
  size_t remaining() const { return remaining_; }
  void read(void* data, size_t bytes);
  // E_MODEL_FORMAT: not a whole state of what is being trained.
  [[noreturn]] void refuse() const;

 private:
  [[noreturn]] void fail(const char* what) const;
  std::string file_;
  const Job& job_;
  Descriptor fd_;
  std::string note_;
  size_t remaining_ = 0;
};

}  // namespace flrc
