#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "emulator/fault.h"
#include "emulator/moments.h"

namespace flrc::emulator {

struct Thread;

// One piece of device memory, a buffer or a block's shared memory: its bytes, and for every cell of `cellBytes`
// (1, 2 or 4) when it was touched last, by which two accesses that no barrier, launch or atomic puts in order
// are found, whatever the order was in which the emulator ran them.
class Memory {
 public:
  // Poisoned. A block's shared memory is cleared (forgotten, not wiped) with every block that gets it.
  Memory(std::string name, size_t bytes, size_t cellBytes, bool shared);

  uint8_t* begin() const { return begin_; }
  size_t size() const { return size_; }
  bool shared() const { return shared_; }

  // The host's copy is there: everything may be read.
  void fillFromHost(const void* from, size_t bytes);
  // Keeps track of accesses; without it nothing may write here.
  void track();
  // For a block of this serial number; 0 when none uses it any more.
  void assign(uint32_t block);

  // The bytes at `at` after the checks of one access by the running thread: inside, aligned to its size,
  // written before it is read, and in order with others' accesses.
  enum class Access { read, write, atomic };
  uint8_t* access(const uint8_t* at, size_t bytes, Access access);
  // An asynchronous copy into [at, at + bytes) was started: touching it is a fault until it has landed.
  void startCopy(const uint8_t* at, size_t bytes);
  // It landed, written at this moment.
  void landCopy(const uint8_t* at, size_t bytes, uint32_t moment);
  // A block's shared memory was touched by another block's thread, or by a bulk copy. When one of the block's
  // threads ends, those are forgotten which that one knows to be over; when the last one ends, none may be
  // left.
  void visit(uint32_t thread, uint32_t clock) { visits_[thread] = clock; }
  void forgetVisits();
  bool hasVisits() const { return !visits_.empty(); }

 private:
  // Of the last write and the last two reads, the number of the moment; 0 is never. There are as many of these
  // as words of memory, and what running kernels costs is mostly waiting for them: they hold no more.
  struct Cell {
    uint32_t write = 0, reads[2] = {};
  };
  // Of what `write` is, beside the moment.
  static constexpr uint32_t kAtomic = 1u << 31, kInFlight = 1u << 30;
  static_assert(Moments::kMost < kInFlight);

  void checkPlace(const uint8_t* at, size_t bytes, const char* what) const;
  void touch(Cell& cell, size_t index, Access access, const Thread& thread, uint32_t now) const;
  [[noreturn]] void fail(const std::string& what, size_t offset) const;

  std::string name_;
  std::vector<uint8_t> storage_;
  uint8_t* begin_;
  size_t size_;
  unsigned cellShift_;  // log2 of the bytes of a cell
  bool shared_, written_ = false;
  uint32_t block_ = 0;
  std::vector<Cell> cells_;
  std::unordered_map<uint32_t, uint32_t> visits_;  // by thread, when
};

}  // namespace flrc::emulator
