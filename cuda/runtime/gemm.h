#pragma once

#include <map>
#include <memory>
#include <tuple>

#include "runtime/libraries.h"
#include "runtime/memory.h"

namespace flrc::gpu {

// y [columns][outputs] (+)= x [columns][inputs] W, bf16 in and f32 out. W lies by output, [outputs][ldw], or by
// input, [inputs][ldw]. A batch of them shares x: W and y of each lie behind those of the one before.
struct Product {
  Global<const uint16_t> x, w;
  Global<float> y;
  int64_t columns, inputs, outputs;
  int64_t ldx, ldw, ldy;
  bool byInput;
  bool add;
  int64_t batch = 1, wStride = 0, yStride = 0;
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
