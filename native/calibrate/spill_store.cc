#include "calibrate/spill_store.h"

#include <cstring>

#include "core/error.h"

namespace flrc {
namespace {

[[noreturn]] void fail(const std::string& directory, const char* what) {
  throw Error(code::io,
              "scratch file in " + directory + ": " + what + ": " + platform::lastError() +
                  "; free some space, set TMPDIR to a larger disk, or allow more memory",
              directory);
}

}  // namespace

bool SpillSpace::takeMemory(int64_t bytes) {
  int64_t left = left_.load();
  while (left >= bytes) {
    if (left_.compare_exchange_weak(left, left - bytes)) return true;
  }
  return false;
}

int64_t SpillSpace::takeFile(int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!file_) file_.emplace(platform::File::scratch(directory_));
  if (!file_->isOpen()) {
    file_.reset();
    fail(directory_, "cannot be made");
  }
  const int64_t offset = end_;
  end_ += bytes;
  return offset;
}

void SpillSpace::write(int64_t offset, const void* data, int64_t bytes) {
  if (!file_->write(offset, data, bytes)) fail(directory_, "cannot be written");
}

void SpillSpace::read(int64_t offset, void* data, int64_t bytes) {
  auto* at = static_cast<uint8_t*>(data);
  while (bytes > 0) {
    const int64_t done = file_->read(offset, at, bytes);
    if (done <= 0) fail(directory_, "cannot be read back");
    at += done;
    offset += done;
    bytes -= done;
  }
}

SpillStore::~SpillStore() {
  // One whose slots lie in files has no space.
  if (const int64_t bytes = memoryBytes(); bytes > 0) space_->giveMemory(bytes);
}

int64_t SpillStore::memoryBytes() const {
  int64_t bytes = 0;
  for (const Slot& slot : slots_) bytes += static_cast<int64_t>(slot.memory.capacity() * sizeof(float));
  return bytes;
}

void SpillStore::put(size_t index, const float* data, size_t count) {
  Slot& slot = slots_[index];
  const auto bytes = static_cast<int64_t>(count * sizeof(float));
  const bool placed = slot.count == count && (slot.offset >= 0 || !slot.memory.empty());
  if (!placed) {
    if (!slot.memory.empty()) space_->giveMemory(static_cast<int64_t>(slot.memory.size() * sizeof(float)));
    // Not clear(), which would keep what the space may now give to others.
    slot.memory = std::vector<float>();
    slot.offset = -1;
    if (space_->takeMemory(bytes)) {
      slot.memory = std::vector<float>(count);
    } else {
      slot.offset = space_->takeFile(bytes);
    }
    slot.count = count;
  }
  if (slot.offset >= 0) {
    space_->write(slot.offset, data, bytes);
  } else if (count > 0) {
    std::memcpy(slot.memory.data(), data, static_cast<size_t>(bytes));
  }
}

void SpillStore::place(size_t index, TensorReader in) {
  Slot& slot = slots_[index];
  in.expectType(SourceType::f32);
  slot.count = static_cast<size_t>(in.source().rows() * in.source().cols());
  slot.file = std::move(in);
}

const float* SpillStore::get(size_t index, std::vector<float>& scratch) const {
  const Slot& slot = slots_[index];
  if (slot.file) {
    scratch.resize(slot.count);
    slot.file->readRows(0, slot.file->source().rows(), scratch.data());
    return scratch.data();
  }
  if (slot.offset < 0) return slot.memory.data();
  scratch.resize(slot.count);
  space_->read(slot.offset, scratch.data(), static_cast<int64_t>(slot.count * sizeof(float)));
  return scratch.data();
}

}  // namespace flrc
