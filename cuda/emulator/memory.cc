#include "emulator/memory.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "emulator/machine.h"

namespace flrc::emulator {
namespace {

constexpr uint8_t kPoison = 0xfe;
constexpr size_t kAlignment = 1024;

}  // namespace

Memory::Memory(std::string name, size_t bytes, size_t cellBytes, bool shared)
    : name_(std::move(name)),
      storage_(bytes + kAlignment, kPoison),
      size_(bytes),
      cellBytes_(cellBytes),
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

void Memory::track() { cells_.resize((size_ + cellBytes_ - 1) / cellBytes_); }

void Memory::assign(uint32_t block) {
  block_ = block;
  visits_.clear();
  if (size_ > 0) std::memset(begin_, kPoison, size_);
}

uint32_t Memory::epoch() const { return shared_ ? block_ : Machine::thread().block->launch->serial; }

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
  if (offset % alignment != 0)
    fail(std::string("misaligned ") + what + " of " + std::to_string(bytes) + " bytes", offset);
  if (shared_ && block_ == 0) fail("access to the shared memory of a block that has ended", offset);
}

bool Memory::inOrder(const Mark& mark) const {
  const Thread& thread = Machine::thread();
  if (mark.epoch == 0) return true;
  if (mark.epoch != epoch()) return shared_ || mark.epoch <= thread.ordered;
  return mark.thread == thread.id || (*thread.known)[mark.thread] >= mark.clock;
}

void Memory::touch(Cell& cell, size_t index, Access access) {
  const Thread& thread = Machine::thread();
  // The same thread's read once more, with no barrier of its own between: nothing new.
  const Mark& latest = cell.reads[0];
  if (access == Access::read && latest.clock == thread.clock && latest.thread == thread.id &&
      latest.epoch == epoch() && !cell.inFlight) {
    return;
  }
  if (cell.inFlight) fail("touched while an asynchronous copy to it is on its way", index * cellBytes_);
  // What the block before left in shared memory is nobody's.
  const bool written = shared_ ? cell.write.epoch == block_ : cell.write.epoch != 0 || written_;
  if (access != Access::write && !written) fail("read of what nobody has written", index * cellBytes_);
  const bool bothAtomic = access == Access::atomic && cell.write.atomic;
  if (!bothAtomic && !inOrder(cell.write)) {
    fail(access == Access::read ? "read while another thread's write is not ordered before it"
                                : "write while another thread's write is not ordered before it",
         index * cellBytes_);
  }
  const Mark now{epoch(), thread.id, thread.clock, access == Access::atomic};
  if (access == Access::read) {
    Mark& last = cell.reads[0];
    // Two readers are remembered: this one, and the one before unless it came earlier for sure.
    if (last.thread != now.thread && !inOrder(last)) cell.reads[1] = last;
    last = now;
    return;
  }
  for (const Mark& read : cell.reads) {
    if (!inOrder(read)) {
      fail("write while another thread's read is not ordered before it", index * cellBytes_);
    }
  }
  cell.write = now;
}

uint8_t* Memory::access(const uint8_t* at, size_t bytes, Access access) {
  checkPlace(at, bytes, access == Access::read ? "read" : "write");
  const auto offset = static_cast<size_t>(at - begin_);
  if (cells_.empty()) {
    if (access != Access::read) fail("write to what is only read", offset);
    if (!written_) fail("read of what nobody has written", offset);
    return begin_ + offset;
  }
  for (size_t cell = offset / cellBytes_; cell * cellBytes_ < offset + bytes; ++cell)
    touch(cells_[cell], cell, access);
  const Thread& thread = Machine::thread();
  if (shared_ && thread.block->serial != block_) visit(thread.id, thread.clock);
  return begin_ + offset;
}

void Memory::forgetVisits() {
  const std::vector<uint32_t>& known = *Machine::thread().known;
  std::erase_if(visits_, [&](const auto& visit) { return known[visit.first] >= visit.second; });
}

void Memory::startCopy(const uint8_t* at, size_t bytes) {
  checkPlace(at, bytes < 16 ? bytes : 16, "asynchronous copy");
  const auto offset = static_cast<size_t>(at - begin_);
  if (offset + bytes > size_) fail("asynchronous copy out of bounds", offset + bytes);
  for (size_t cell = offset / cellBytes_; cell * cellBytes_ < offset + bytes; ++cell) {
    touch(cells_[cell], cell, Access::write);
    cells_[cell].inFlight = true;
  }
  std::memset(begin_ + offset, kPoison, bytes);
}

void Memory::landCopy(const uint8_t* at, size_t bytes, uint32_t thread, uint32_t clock) {
  const auto offset = static_cast<size_t>(at - begin_);
  for (size_t cell = offset / cellBytes_; cell * cellBytes_ < offset + bytes; ++cell) {
    cells_[cell].inFlight = false;
    cells_[cell].write = {block_, thread, clock, false};
  }
}

}  // namespace flrc::emulator
