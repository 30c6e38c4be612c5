#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace flrc::emulator {

// A thread of a launch: its block, and its place in that, with room for as many as a block can have and for
// those that copy for it.
inline constexpr uint32_t kThreadBits = 11;
constexpr uint32_t threadId(size_t block, uint32_t place) {
  return static_cast<uint32_t>(block << kThreadBits) | place;
}

// What each thread of a launch is known to have done, by thread: everything at a time up to the entry happened
// before. Blocks of which the same is known share it, and of most nothing is known: copies are cheap.
class Clocks {
 public:
  uint32_t at(uint32_t thread) const {
    const size_t block = thread >> kThreadBits, place = thread & ((1u << kThreadBits) - 1);
    if (block >= blocks_.size() || blocks_[block] == nullptr || place >= blocks_[block]->size()) return 0;
    return (*blocks_[block])[place];
  }
  // Never back.
  void raise(uint32_t thread, uint32_t clock);
  void raise(const Clocks& other);

 private:
  using OfBlock = std::vector<uint32_t>;
  static OfBlock& own(std::shared_ptr<OfBlock>& shared);

  std::vector<std::shared_ptr<OfBlock>> blocks_;
};

// What a thread knows; many know the same.
using Known = std::shared_ptr<const Clocks>;

}  // namespace flrc::emulator
