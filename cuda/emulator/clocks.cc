#include "emulator/clocks.h"

#include <algorithm>

namespace flrc::emulator {

Clocks::OfBlock& Clocks::own(std::shared_ptr<OfBlock>& shared) {
  if (shared == nullptr) {
    shared = std::make_shared<OfBlock>();
  } else if (shared.use_count() > 1) {
    shared = std::make_shared<OfBlock>(*shared);
  }
  return *shared;
}

void Clocks::raise(uint32_t thread, uint32_t clock) {
  const size_t block = thread >> kThreadBits, place = thread & ((1u << kThreadBits) - 1);
  if (blocks_.size() <= block) blocks_.resize(block + 1);
  OfBlock& clocks = own(blocks_[block]);
  if (clocks.size() <= place) clocks.resize(place + 1);
  clocks[place] = std::max(clocks[place], clock);
}

void Clocks::raise(const Clocks& other) {
  if (blocks_.size() < other.blocks_.size()) blocks_.resize(other.blocks_.size());
  for (size_t b = 0; b < other.blocks_.size(); ++b) {
    const std::shared_ptr<OfBlock>& from = other.blocks_[b];
    if (from == nullptr || from == blocks_[b]) continue;
    if (blocks_[b] == nullptr) {
      blocks_[b] = from;
      continue;
    }
    OfBlock& to = own(blocks_[b]);
    if (to.size() < from->size()) to.resize(from->size());
    for (size_t i = 0; i < from->size(); ++i) to[i] = std::max(to[i], (*from)[i]);
  }
}

}  // namespace flrc::emulator
