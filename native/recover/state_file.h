#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/job.h"
#include "platform/file.h"

namespace flrc {

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
  platform::File to_;
  int64_t end_ = 0;
};

class StateReader {
 public:
  StateReader(const std::string& file, const Job& job);
  const std::string& note() const { return note_; }
  // Bytes that are left to read.
  size_t remaining() const { return static_cast<size_t>(size_ - at_); }
  void read(void* data, size_t bytes);
  // E_MODEL_FORMAT: not a whole state of what is being trained.
  [[noreturn]] void refuse() const;

 private:
  [[noreturn]] void fail(const char* what) const;
  std::string file_;
  const Job& job_;
  platform::File from_;
  std::string note_;
  int64_t size_ = 0;
  int64_t at_ = 0;
};

}  // namespace flrc
