#pragma once

#include <algorithm>
#include <cstring>

#include "tensor/matrix.h"

namespace test {

// Weights of some hundredth, of either sign: sums stay finite. Of a RowMatrix or a PanelMatrix.
template <typename Matrix>
void fillWithNoise(Matrix& to, uint64_t seed) {
  uint64_t state = 2 * seed + 1;
  // Bits of `mask` as they come, the others those of `bits`.
  const auto fill = [&](flrc::Buffer& buffer, uint64_t mask, uint64_t bits) {
    for (size_t i = 0; i < buffer.size(); i += 8) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const uint64_t some = ((state ^ state >> 29) & mask) | bits;
      std::memcpy(buffer.data() + i, &some, std::min<size_t>(8, buffer.size() - i));
    }
  };
  if (to.dtype == flrc::Dtype::bf16) return fill(to.data, 0x807f807f807f807fu, 0x3c003c003c003c00u);
  fill(to.data, ~uint64_t{0}, 0);
  fill(to.scale, 0x007f007f007f007fu,
       to.dtype == flrc::Dtype::int8 ? 0x3900390039003900u : 0x3b003b003b003b00u);
  fill(to.zero, 0x0f0f0f0f0f0f0f0fu, 0);
}

}  // namespace test
