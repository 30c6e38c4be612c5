#pragma once

#include <cstdint>

namespace flrc {

// Counter-based uniform numbers (SplitMix64's finaliser): draw i of a seed is the same on every machine and
// thread count, whatever was drawn before.
inline uint64_t randomBits(uint64_t seed, uint64_t index) {
  uint64_t z = seed * 0x9e3779b97f4a7c15ull + index * 0xd1b54a32d192ed03ull + 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// In [0, 1), 53 bits.
inline double randomUniform(uint64_t seed, uint64_t index) {
  return static_cast<double>(randomBits(seed, index) >> 11) * 0x1.0p-53;
}

}  // namespace flrc
