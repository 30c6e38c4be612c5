#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace flrc {

// The sum of a stream of bytes, whatever pieces it comes in. A word of 8 bytes that differs gives another sum,
// as every step can be undone; so two streams of one length that differ in one word never have the same.
class Checksum {
 public:
  void add(const void* data, size_t bytes) {
    const auto* at = static_cast<const uint8_t*>(data);
    length_ += bytes;
    for (; bytes > 0 && filled_ > 0; --bytes) take(*at++);
    for (; bytes >= sizeof(uint64_t); bytes -= sizeof(uint64_t), at += sizeof(uint64_t)) {
      uint64_t word;
      std::memcpy(&word, at, sizeof word);
      mix(word);
    }
    for (; bytes > 0; --bytes) take(*at++);
  }

  uint64_t value() const {
    Checksum all = *this;
    if (filled_ > 0) all.mix(rest_);
    all.mix(length_);
    return all.sum_;
  }

 private:
  void take(uint8_t byte) {
    rest_ |= uint64_t{byte} << (8 * filled_);
    if (++filled_ < sizeof(uint64_t)) return;
    mix(rest_);
    rest_ = 0;
    filled_ = 0;
  }

  void mix(uint64_t word) {
    sum_ = (sum_ ^ word) * 0x9e3779b97f4a7c15u;
    sum_ ^= sum_ >> 32;
  }

  uint64_t sum_ = 0, rest_ = 0, length_ = 0;
  size_t filled_ = 0;
};

}  // namespace flrc
