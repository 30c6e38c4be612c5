#pragma once

#include <cstdint>
#include <vector>

#include "emulator/fault.h"

namespace flrc::emulator {

// A thread of a launch at one time of its clock.
struct Moment {
  uint32_t launch, thread, clock;
};

// The moments at which memory was touched, numbered from 1 on in the order in which they were first needed, so
// that whoever remembers many of them remembers numbers.
class Moments {
 public:
  static constexpr uint32_t kMost = (1u << 30) - 1;

  uint32_t add(const Moment& moment) {
    if (first_ + kept_.size() > kMost) throw Fault("more moments than the emulator can tell apart");
    kept_.push_back(moment);
    return first_ + static_cast<uint32_t>(kept_.size() - 1);
  }
  // Null when it is forgotten, which 0 always is.
  const Moment* find(uint32_t number) const { return number < first_ ? nullptr : &kept_[number - first_]; }
  // For when all of them are over for whoever comes.
  void forget() {
    first_ += static_cast<uint32_t>(kept_.size());
    kept_.clear();
  }

 private:
  uint32_t first_ = 1;
  std::vector<Moment> kept_;
};

// Of the whole process: memory outlives a machine.
inline Moments moments;

}  // namespace flrc::emulator
