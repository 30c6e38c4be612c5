#pragma once

#include <cstddef>
#include <memory>

#include "runtime/libraries.h"
#include "runtime/memory.h"

namespace flrc::gpu {

// y [columns][outputs] (+)= x [columns][inputs] W^T, W [outputs][ldw], bf16 in and f32 out.
struct Product {
  Global<const uint16_t> x, w;
  Global<float> y;
  int64_t columns, inputs, outputs;
  int64_t ldx, ldw, ldy;
  bool add;
};

// There is no algorithm for a product, of which nothing was done.
struct Unserved {};

// Large products, by cuBLASLt. On the emulator by the plainest of kernels, so that what surrounds them is
// tested.
class Gemm {
 public:
  Gemm();
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  // Why there is none; empty where there is.
  const std::string& missing() const;
  // Throws Unserved.
  void multiply(Queue& queue, const Product& product);
  // Made so far, one for each form of products, and kept: numbers of columns must be few.
  size_t plans() const;

 private:
  struct Library;
  std::unique_ptr<Library> library_;
};

#ifndef __CUDACC__
// Products that the emulator's has no algorithm for; null: none.
inline bool (*emulatedUnserved)(const Product&) = nullptr;
#endif

}  // namespace flrc::gpu
