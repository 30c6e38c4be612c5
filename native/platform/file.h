#pragma once

#include <cstdint>
#include <string>

namespace flrc::platform {

// An open file, closed with its owner and not inherited by child processes. Paths are UTF-8. Reads and writes
// name their place, so that several threads may use one file at once.
class File {
 public:
  enum class Use {
    read,
    write,   // a file that exists
    create,  // made, or emptied
  };

  // Opens nothing where it fails; isOpen() says so and lastError() why.
  File(const std::string& path, Use use);
  // A new file in `directory` that nothing can be left of, however the process ends.
  static File scratch(const std::string& directory);
  ~File();
  File(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  bool isOpen() const;
  // Bytes in the file; -1 where the system does not say.
  int64_t size() const;
  // Reads up to `bytes` at `offset`; how many were there, 0 at the end of the file, -1 where it fails.
  int64_t read(int64_t offset, void* data, int64_t bytes) const;
  // Writes all of them, or says that it failed.
  bool write(int64_t offset, const void* data, int64_t bytes);
  // To the disk.
  bool flush();

 private:
  // A descriptor of POSIX, a handle of Windows; -1 is neither.
  explicit File(intptr_t handle) : handle_(handle) {}
  intptr_t handle_;
};

// A file that one owner at a time holds, of all processes and within one. The system lets go of it however its
// owner ends; ending well, the owner removes it. Paths are UTF-8.
class FileLock {
 public:
  enum class State {
    held,
    taken,   // another has it
    failed,  // the file cannot be made; lastError() says why
  };

  // Makes the file where it is missing. Held, too, where the file system knows no locks: nothing else is there
  // then.
  explicit FileLock(const std::string& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

  State state() const { return state_; }

 private:
  std::string path_;
  State state_ = State::failed;
  intptr_t handle_ = -1;  // as of File
};

// Puts a file in the place of another, which nobody has open, in one step, and removes one; false where that
// fails.
bool replaceFile(const std::string& from, const std::string& to);
bool removeFile(const std::string& path);

// What the system said of this thread's last failure in a File or with one.
std::string lastError();

}  // namespace flrc::platform
