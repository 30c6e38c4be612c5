#include "emulator/memory.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "emulator/machine.h"

namespace flrc::emulator {
namespace {

constexpr uint8_t kPoison = 0xfe;
constexpr size_t kAlignment = 1024;

bool inOrder(uint32_t number, const Thread& thread) {
  const Moment* moment = moments.find(number);
  if (moment == nullptr) return true;
  if (moment->launch != thread.launchSerial) return moment->launch <= thread.ordered;
  return moment->thread == thread.id || thread.known->at(moment->thread) >= moment->clock;
}

}  // namespace

Memory::Memory(std::string name, size_t bytes, size_t cellBytes, bool shared)
    : name_(std::move(name)),
      storage_(bytes + kAlignment, kPoison),
      size_(bytes),
      cellShift_(static_cast<unsigned>(std::countr_zero(cellBytes))),
      shared_(shared) {
  begin_ = storage_.data();
  begin_ += (kAlignment - reinterpret_cast<uintptr_t>(begin_) % kAlignment) % kAlignment;
  if (shared) track();
}

void Memory::fillFromHost(const void* from, size_t bytes) {
  if (bytes != size_) throw Fault(name_ + ": filled with " + std::to_string(bytes) + " bytes");
  if (bytes > 0) std::memcpy(begin_, from, bytes);
  written_ = true;
}

void Memory::track() { cells_.resize((size_ + (size_t{1} << cellShift_) - 1) >> cellShift_); }

void Memory::assign(uint32_t block) {
  block_ = block;
  visits_.clear();
  if (size_ > 0) std::memset(begin_, kPoison, size_);
}

void Memory::fail(const std::string& what, size_t offset) const {
  throw Fault(Machine::place() + ": " + what + ", " + name_ + " at byte " + std::to_string(offset) + " of " +
              std::to_string(size_));
}

void Memory::checkPlace(const uint8_t* at, size_t bytes, const char* what) const {
  const auto offset = static_cast<size_t>(at - begin_);
  if (at < begin_ || offset + bytes > size_) {
    fail(std::string(what) + " of " + std::to_string(bytes) + " bytes out of bounds", offset);
  }
  // Of structs, what their values ask for; nothing asks for more than 16 bytes.
  const size_t alignment = std::min<size_t>(16, bytes & (~bytes + 1));
  if ((offset & (alignment - 1)) != 0)
    fail(std::string("misaligned ") + what + " of " + std::to_string(bytes) + " bytes", offset);
  if (shared_ && block_ == 0) fail("access to the shared memory of a block that has ended", offset);
}

void Memory::touch(Cell& cell, size_t index, Access access, const Thread& thread, uint32_t now) const {
  // The same thread's read once more, with no barrier of its own between: nothing new.
  if (access == Access::read && cell.reads[0] == now && (cell.write & kInFlight) == 0) return;
  const auto offset = [&] { return index << cellShift_; };
  if ((cell.write & kInFlight) != 0) fail("touched while an asynchronous copy to it is on its way", offset());
  const uint32_t write = cell.write & ~kAtomic;
  if (access != Access::write && write == 0 && !written_) fail("read of what nobody has written", offset());
  const bool bothAtomic = access == Access::atomic && (cell.write & kAtomic) != 0;
  if (!bothAtomic && !inOrder(write, thread)) {
    fail(access == Access::read ? "read while another thread's write is not ordered before it"
                                : "write while another thread's write is not ordered before it",
         offset());
  }
  if (access == Access::read) {
    // Two readers are remembered: this one, and the one before unless it came earlier for sure.
    if (!inOrder(cell.reads[0], thread)) cell.reads[1] = cell.reads[0];
    cell.reads[0] = now;
    return;
  }
  for (const uint32_t read : cell.reads) {
    if (!inOrder(read, thread)) {
      fail("write while another thread's read is not ordered before it", offset());
    }
  }
  cell.write = access == Access::atomic ? now | kAtomic : now;
}

uint8_t* Memory::access(const uint8_t* at, size_t bytes, Access access) {
  checkPlace(at, bytes, access == Access::read ? "read" : "write");
  const auto offset = static_cast<size_t>(at - begin_);
  if (cells_.empty()) {
    if (access != Access::read) fail("write to what is only read", offset);
    if (!written_) fail("read of what nobody has written", offset);
    return begin_ + offset;
  }
  Thread& thread = Machine::thread();
  const uint32_t now = thread.moment();
  for (size_t cell = offset >> cellShift_; cell << cellShift_ < offset + bytes; ++cell) {
    touch(cells_[cell], cell, access, thread, now);
  }
  if (shared_ && thread.block->serial != block_) visit(thread.id, thread.clock);
  return begin_ + offset;
}

void Memory::forgetVisits() {
  const Clocks& known = *Machine::thread().known;
  std::erase_if(visits_, [&](const auto& visit) { return known.at(visit.first) >= visit.second; });
}

void Memory::startCopy(const uint8_t* at, size_t bytes) {
  checkPlace(at, bytes < 16 ? bytes : 16, "asynchronous copy");
  const auto offset = static_cast<size_t>(at - begin_);
  if (offset + bytes > size_) fail("asynchronous copy out of bounds", offset + bytes);
  Thread& thread = Machine::thread();
  const uint32_t now = thread.moment();
  for (size_t cell = offset >> cellShift_; cell << cellShift_ < offset + bytes; ++cell) {
    touch(cells_[cell], cell, Access::write, thread, now);
    cells_[cell].write |= kInFlight;
  }
  std::memset(begin_ + offset, kPoison, bytes);
}

void Memory::landCopy(const uint8_t* at, size_t bytes, uint32_t moment) {
  const auto offset = static_cast<size_t>(at - begin_);
  for (size_t cell = offset >> cellShift_; cell << cellShift_ < offset + bytes; ++cell) {
    cells_[cell].write = moment;
  }
}

}  // namespace flrc::emulator
