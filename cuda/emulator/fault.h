#pragma once

#include <stdexcept>
#include <string>

namespace flrc::emulator {

// What a kernel did that a GPU does not allow or promise: an access outside its memory, a read of what nobody
// wrote, two accesses that no barrier puts in order, a barrier that not everybody reaches.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace flrc::emulator
