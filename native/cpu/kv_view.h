#pragma once

#include <algorithm>
#include <cstdint>

namespace flrc::cpu {

// Positions whose keys lie together.
inline constexpr int64_t kKeyBlock = 16;

// The first position that a query at `position` sees; window 0 is full attention.
inline int64_t firstVisible(int64_t position, int64_t window) {
  return window > 0 ? std::max<int64_t>(0, position - window + 1) : 0;
}

// Keys and values of one layer of one sequence, f32 or (half) IEEE fp16:
//   keys   [position / kKeyBlock][kvHeads][headDim][position % kKeyBlock], so that the scores of a block's
//   positions
//          are computed side by side
//   values [position][kvHeads][valueDim], heads padded to whole vectors
struct KvView {
  void* keys = nullptr;
  void* values = nullptr;
  bool half = false;
  int64_t kvHeads = 0, headDim = 0;

  int64_t valueDim() const { return (headDim + 15) / 16 * 16; }
};

}  // namespace flrc::cpu
