#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "platform/file.h"
#include "tensor/source.h"

namespace flrc {

// How many bytes a calibration may hold in memory, shared by its stores, and the scratch file for the rest, of
// which a killed process leaves nothing.
class SpillSpace {
 public:
  SpillSpace(int64_t memory, std::string directory) : left_(memory), directory_(std::move(directory)) {}
  bool takeMemory(int64_t bytes);
  void giveMemory(int64_t bytes) { left_.fetch_add(bytes); }
  int64_t memoryLeft() const { return left_.load(); }
  int64_t takeFile(int64_t bytes);
  void write(int64_t offset, const void* data, int64_t bytes);
  void read(int64_t offset, void* data, int64_t bytes);

 private:
  std::atomic<int64_t> left_;
  std::string directory_;
  std::mutex mutex_;
  std::optional<platform::File> file_;
  int64_t end_ = 0;
};

// Numbered arrays of floats, each in memory while the space has room, in the scratch file otherwise, or where
// they lie in a file already. Different slots may be used from different threads at once.
class SpillStore {
 public:
  SpillStore(std::shared_ptr<SpillSpace> space, size_t slots) : space_(std::move(space)), slots_(slots) {}
  ~SpillStore();
  SpillStore(const SpillStore&) = delete;
  SpillStore& operator=(const SpillStore&) = delete;

  // A slot keeps its place when written again with the same length.
  void put(size_t slot, const float* data, size_t count);
  // A slot whose values lie in a file, from which they are read each time. Its values are only got from then
  // on.
  void place(size_t slot, TensorReader in);
  // The slot's values: in place when in memory, otherwise read into `scratch`. E_IO, and of a file that was
  // placed E_MODEL_FORMAT where it became shorter, E_NUMERIC where it holds NaN or infinite values.
  const float* get(size_t slot, std::vector<float>& scratch) const;
  size_t count(size_t slot) const { return slots_[slot].count; }
  // What of it is in memory.
  int64_t memoryBytes() const;

 private:
  struct Slot {
    size_t count = 0;
    std::vector<float> memory;
    int64_t offset = -1;
    std::optional<TensorReader> file;
  };
  std::shared_ptr<SpillSpace> space_;
  std::vector<Slot> slots_;
};

}  // namespace flrc
