#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "check.h"
#include "kernels/decode.h"
#include "tensor/dtype.h"
#include "test/device.h"

namespace test {

// Key and value caches of several sequences, one a column; or of one, which all columns are positions of.
class Caches {
 public:
  Caches(int layers, int capacity, int kvWidth, std::vector<int> positions, bool oneSequence = false)
      : layers_(layers),
        capacity_(capacity),
        kvWidth_(kvWidth),
        positions_(std::move(positions)),
        oneSequence_(oneSequence) {
    const std::vector<uint16_t> empty(static_cast<size_t>(layers * capacity * kvWidth), 0x7fc0);  // NaN
    for (size_t c = 0; c < positions_.size(); ++c) add(empty, empty);
  }

  // Random before every column's position, NaN from there on.
  void fill(check::Random& random) {
    std::vector<std::vector<uint16_t>> contents;
    for (const int position : positions_) {
      for (int both = 0; both < 2; ++both) {
        std::vector<uint16_t> values(static_cast<size_t>(layers_ * capacity_ * kvWidth_), 0x7fc0);
        for (int layer = 0; layer < layers_; ++layer) {
          for (int i = 0; i < position * kvWidth_; ++i) {
            values[static_cast<size_t>(layer * capacity_ * kvWidth_ + i)] =
                flrc::floatToBf16(static_cast<float>(random.normal()));
          }
        }
        contents.push_back(std::move(values));
      }
    }
    keys_.clear();
    values_.clear();
    for (size_t c = 0; c < positions_.size(); ++c) add(contents[2 * c], contents[2 * c + 1]);
  }

  // One column's cache, as it is now.
  Caches only(int column) const {
    Caches one(layers_, capacity_, kvWidth_, {positions_[static_cast<size_t>(column)]});
    one.keys_.clear();
    one.values_.clear();
    one.add(keys_[cacheOf(column)]->download(), values_[cacheOf(column)]->download());
    return one;
  }

  // The table for kernels, with caches that they may write.
  flrc::gpu::Global<const flrc::gpu::CacheRow> rows() { return table().read(); }
  std::vector<flrc::gpu::CacheRow> describe(const std::vector<int32_t>& tokens) {
    std::vector<flrc::gpu::CacheRow> rows;
    for (size_t c = 0; c < positions_.size(); ++c) {
      const size_t cache = cacheOf(static_cast<int>(c));
      rows.push_back({keys_[cache]->global(), values_[cache]->global(), int64_t{capacity_} * kvWidth_,
                      positions_[c], tokens[c]});
    }
    return rows;
  }

  const std::vector<int>& positions() const { return positions_; }
  // What a column's cache holds now.
  class Contents {
   public:
    Contents(const Caches& caches, size_t cache)
        : capacity_(caches.capacity_),
          kvWidth_(caches.kvWidth_),
          keys_(caches.keys_[cache]->download()),
          values_(caches.values_[cache]->download()) {}

    float key(int layer, int position, int i) const { return at(keys_, layer, position, i); }
    float value(int layer, int position, int i) const { return at(values_, layer, position, i); }

   private:
    float at(const std::vector<uint16_t>& where, int layer, int position, int i) const {
      return flrc::bf16ToFloat(where[static_cast<size_t>((layer * capacity_ + position) * kvWidth_ + i)]);
    }

    int capacity_, kvWidth_;
    std::vector<uint16_t> keys_, values_;
  };
  Contents contents(int column) const { return {*this, cacheOf(column)}; }

 private:
  void add(const std::vector<uint16_t>& keys, const std::vector<uint16_t>& values) {
    keys_.push_back(std::make_unique<Array<uint16_t>>(keys));
    values_.push_back(std::make_unique<Array<uint16_t>>(values));
  }

  size_t cacheOf(int column) const { return oneSequence_ ? 0 : static_cast<size_t>(column); }

  Array<flrc::gpu::CacheRow>& table() {
    table_ = std::make_unique<Array<flrc::gpu::CacheRow>>(describe(std::vector<int32_t>(positions_.size())));
    return *table_;
  }

  int layers_, capacity_, kvWidth_;
  std::vector<int> positions_;
  bool oneSequence_;
  std::vector<std::unique_ptr<Array<uint16_t>>> keys_, values_;
  std::unique_ptr<Array<flrc::gpu::CacheRow>> table_;
};

}  // namespace test
