#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/checksum.h"
#include "core/job.h"
#include "platform/file.h"

namespace flrc {

// The state of an interrupted run: a mark, the length of a note and the note, then arrays one after another, as
// this machine holds them, and a checksum of it all. E_IO names the file. The job is that of the call which
// reads or writes.
class StateWriter {
 public:
  // Makes the file, or empties it.
  StateWriter(const std::string& file, const std::string& note, const Job& job);
  void write(const void* data, size_t bytes);
  // Writes the checksum and flushes to the disk.
  void finish();

 private:
  [[noreturn]] void fail(const char* what) const;
  void put(const void* data, size_t bytes);
  std::string file_;
  const Job& job_;
  platform::File to_;
  Checksum sum_;
  int64_t end_ = 0;
};

class StateReader {
 public:
  // `whole`: what is to be removed where this file is damaged, such as the folder it is in.
  StateReader(const std::string& file, const Job& job) : StateReader(file, file, job) {}
  StateReader(const std::string& file, const std::string& whole, const Job& job);
  const std::string& note() const { return note_; }
  // Bytes of arrays that are left to read.
  size_t remaining() const { return static_cast<size_t>(end_ - at_); }
  void read(void* data, size_t bytes);
  // Once all arrays are read: refuses bytes that are not those which were written.
  void finish();
  // E_MODEL_FORMAT: not a whole state of this run.
  [[noreturn]] void refuse() const;

 private:
  [[noreturn]] void fail(const char* what) const;
  std::string file_, whole_;
  const Job& job_;
  platform::File from_;
  void get(void* data, size_t bytes);
  std::string note_;
  Checksum sum_;
  int64_t end_ = 0;  // of the arrays
  int64_t at_ = 0;
};

}  // namespace flrc
