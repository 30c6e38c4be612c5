#pragma once

#include <stdexcept>

#include "kernels/block.cuh"

// Eight neighbouring values at a time, and how the squares of a row of them are added up: the same whoever
// normalises it.

namespace flrc::gpu {

// Of what begins at 16 bytes, in device or in shared memory.
FLRC_DEVICE void loadOctet(Global<const float> at, float (&out)[8]) {
  const Global<const Float4> from = pointerCast<const Float4>(at);
  const Float4 first = from[0], second = from[1];
  out[0] = first.x, out[1] = first.y, out[2] = first.z, out[3] = first.w;
  out[4] = second.x, out[5] = second.y, out[6] = second.z, out[7] = second.w;
}
FLRC_DEVICE void storeOctet(Global<float> at, const float (&from)[8]) {
  const Global<Float4> to = pointerCast<Float4>(at);
  to[0] = Float4{from[0], from[1], from[2], from[3]};
  to[1] = Float4{from[4], from[5], from[6], from[7]};
}

// Values [k, k + 8) of a row of `width`, zeros behind its end. Rows of a multiple of 4 begin at 16 bytes.
FLRC_DEVICE void readOctet(Global<const float> row, int width, int k, float (&out)[8]) {
  if (width % 4 == 0 && k + 8 <= width) return loadOctet(row + k, out);
  FLRC_UNROLL
  for (int i = 0; i < 8; ++i) out[i] = k + i < width ? row[k + i] : 0.0f;
}
FLRC_DEVICE void writeOctet(Global<float> row, int width, int k, const float (&from)[8]) {
  if (width % 4 == 0 && k + 8 <= width) return storeOctet(row + k, from);
  FLRC_UNROLL
  for (int i = 0; i < 8; ++i) {
    if (k + i < width) row[k + i] = from[i];
  }
}

// Values [k, k + 8) of `width` tagged ones as soon as they are there, zeros behind the end. `row` begins at 16
// bytes, and is followed by as much as makes whole octets.
FLRC_DEVICE void receiveOctet(Global<const uint64_t> row, int width, int k, uint32_t tag, float (&out)[8]) {
  FLRC_UNROLL
  for (int i = 0; i < 8; ++i) out[i] = 0;
  if (k < width) receiveFirst<8>(row + k, width - k, tag, out);
}

// Threads of a block that normalises a row; each has every so-manieth octet of it, in order.
inline constexpr int kNormThreads = 256;
FLRC_DEVICE float addSquares(const float (&octet)[8], float sum) {
  FLRC_UNROLL
  for (int i = 0; i < 8; ++i) sum = fusedMultiplyAdd(octet[i], octet[i], sum);
  return sum;
}
// 1 / sqrt(mean(x^2) + eps) from the threads' sums.
FLRC_DEVICE float inverseNorm(float squares, int width, float eps, Shared<float> scratch) {
  return 1.0f / sqrtf(blockSum(squares, scratch) / static_cast<float>(width) + eps);
}

template <int kCount>
struct OctetCount {
  static constexpr int value = kCount;
};

// launch(OctetCount<n>{}) with the octets that each thread's registers hold of rows of `width` values.
template <int kCount = 1, typename Launch>
void launchForWidth(int width, const Launch& launch) {
  if (width <= 8 * kNormThreads * kCount) return launch(OctetCount<kCount>{});
  if constexpr (kCount < 8) return launchForWidth<2 * kCount>(width, launch);
  throw std::invalid_argument("a model this wide is not for the GPU");
}

}  // namespace flrc::gpu
