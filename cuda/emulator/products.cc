#include "emulator/products.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "emulator/machine.h"
#include "kernels/shape.h"

// The machine that tests is not always the one that compiled them.
#ifdef __x86_64__
#define FLRC_WITH_FMA __attribute__((target_clones("fma", "default")))
#else
#define FLRC_WITH_FMA
#endif

namespace flrc::emulator {
namespace {

using gpu::kBoxBytes;
using gpu::kBoxRows;
using gpu::kBoxWidth;

constexpr int kRows = 64;

template <typename T, int kAcross>
[[gnu::always_inline]] inline void addColumns(T* c, const T* a, const T* b, int rows, int columns, int depth) {
  for (int row = 0; row < rows; ++row) {
    T sums[kAcross];
    for (int j = 0; j < kAcross; ++j) sums[j] = c[row * columns + j];
    for (int k = 0; k < depth; ++k) {
      const T left = a[row * depth + k];
#pragma GCC unroll 32
      for (int j = 0; j < kAcross; ++j) sums[j] = std::fma(left, b[k * columns + j], sums[j]);
    }
    for (int j = 0; j < kAcross; ++j) c[row * columns + j] = sums[j];
  }
}

template <typename T>
[[gnu::always_inline]] inline void addAll(T* c, const T* a, const T* b, int rows, int columns, int depth) {
  int first = 0;
  for (; first + 32 <= columns; first += 32) addColumns<T, 32>(c + first, a, b + first, rows, columns, depth);
  for (; first < columns; first += 8) addColumns<T, 8>(c + first, a, b + first, rows, columns, depth);
}

// A value of boxes, of which those of `across` lie side by side.
float valueOf(const Pointer<const uint8_t>& boxes, int row, int column, int across) {
  const int box = row / kBoxRows * across + column / kBoxWidth;
  uint16_t bits;
  std::memcpy(&bits, boxes.at() + box * kBoxBytes + (row % kBoxRows * kBoxWidth + column % kBoxWidth) * 2,
              sizeof bits);
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// For every value of sums [64, columns] and where the warpgroup's threads have it.
template <typename Each>
void forEachSum(int columns, void* const* sums, const Each& each) {
  for (int thread = 0; thread < kWarpgroupThreads; ++thread) {
    auto* of = static_cast<float*>(sums[thread]);
    const int lane = thread % kWarpThreads, row = thread / kWarpThreads * 16 + lane / 4;
    for (int i = 0; i < columns / 2; ++i) {
      each((row + i / 2 % 2 * 8) * columns + i / 4 * 8 + lane % 4 * 2 + i % 2, of[i]);
    }
  }
}

bool same(const Thread::Product& a, const Thread::Product& b) {
  return a.a == b.a && a.b == b.b && a.add == b.add && a.wide == b.wide && a.rightDown == b.rightDown;
}

}  // namespace

FLRC_WITH_FMA void addProduct(float* c, const float* a, const float* b, int rows, int columns, int depth) {
  addAll(c, a, b, rows, columns, depth);
}

FLRC_WITH_FMA void addProduct(double* c, const double* a, const double* b, int rows, int columns, int depth) {
  addAll(c, a, b, rows, columns, depth);
}

void finishProducts(size_t left, int columns, void* const* sums) {
  const Thread& self = Machine::thread();
  Thread* group = &self.block->threads[self.index / kWarpgroupThreads * kWarpgroupThreads];
  for (int t = 0; t < kWarpgroupThreads; ++t) {
    if (!std::equal(group[t].products.begin(), group[t].products.end(), self.products.begin(),
                    self.products.end(), same)) {
      throw Fault(Machine::place() + ": the threads of a warpgroup multiply different boxes");
    }
  }
  std::vector<float> values(static_cast<size_t>(kRows * columns));
  forEachSum(columns, sums, [&](int at, float& sum) { values[static_cast<size_t>(at)] = sum; });
  while (self.products.size() > left) {
    const Thread::Product product = self.products.front();
    const int depth = product.wide ? kBoxWidth : kBoxRows;
    std::vector<float> a, b;
    for (int row = 0; row < kRows; ++row) {
      for (int k = 0; k < depth; ++k) {
        a.push_back(product.wide ? valueOf(product.a, row, k, 1) : valueOf(product.a, k, row, 1));
      }
    }
    for (int k = 0; k < depth; ++k) {
      for (int column = 0; column < columns; ++column) {
        b.push_back(product.rightDown ? valueOf(product.b, k, column, columns / kBoxWidth)
                                      : valueOf(product.b, column, k, 1));
      }
    }
    if (!product.add) std::fill(values.begin(), values.end(), 0.0f);
    addProduct(values.data(), a.data(), b.data(), kRows, columns, depth);
    for (int t = 0; t < kWarpgroupThreads; ++t) group[t].products.erase(group[t].products.begin());
  }
  forEachSum(columns, sums, [&](int at, float& sum) { sum = values[static_cast<size_t>(at)]; });
}

}  // namespace flrc::emulator
