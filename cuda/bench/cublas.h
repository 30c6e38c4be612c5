#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "test/device.h"

namespace bench {

// Products with one column by cuBLAS, which is opened where it is there.
class Cublas {
 public:
  // Two of its functions can make them; which is the faster one depends on the shape.
  enum class Call { gemm, gemv };
  static const char* nameOf(Call call);

  explicit Cublas(test::Device& device);
  ~Cublas();

  // Why it cannot be used; empty where it can.
  const std::string& missing() const { return missing_; }
  // y [outputs] = W x [inputs], W [outputs, inputs] row by row; bf16 throughout, sums in f32. Launched into the
  // device's stream, and may be captured.
  void multiply(Call call, const uint16_t* w, int64_t outputs, int64_t inputs, const uint16_t* x, uint16_t* y);

 private:
  struct Functions;
  std::string missing_;
  std::unique_ptr<Functions> functions_;
};

}  // namespace bench
