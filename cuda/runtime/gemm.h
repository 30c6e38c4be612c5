#pragma once

#include <map>
#include <memory>
#include <tuple>

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
  void multiply(Queue& queue, const Product& product);

 private:
  struct Library;
  std::unique_ptr<Library> library_;
};

}  // namespace flrc::gpu
