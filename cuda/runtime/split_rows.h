#pragma once

#include "kernels/calibrate.h"
#include "runtime/pieces.h"

namespace flrc::gpu {

// Rows in two bf16 halves (kernels/calibrate.h), or with no second one.
struct Halves {
  Activations high;
  Global<const uint16_t> low;

  Halves from(int64_t row) const {
    return {{high.data + row * high.ld, high.ld, high.width}, low != nullptr ? low + row * high.ld : low};
  }
};

// f32 rows rounded to bf16, as the products of passes take them.
class RoundedRows {
 public:
  // Bytes of so many.
  static double bytesOf(int64_t rows, int64_t width);

  RoundedRows() = default;
  // With room for so many.
  RoundedRows(int64_t rows, int64_t width);

  // [rows, width] from the device.
  void round(Pieces& pieces, Global<const float> from, int64_t rows, int64_t width);

  Activations rows() const { return {values_.read(), ld_, static_cast<int>(width_)}; }
  Halves halves() const { return {rows(), nullptr}; }

 private:
  int64_t width_ = 0, ld_ = 0;
  Buffer<uint16_t> values_;
};

// f32 rows as two bf16 ones on the device.
class SplitRows {
 public:
  // Bytes of so many.
  static double bytesOf(int64_t rows, int64_t width);

  SplitRows() = default;
  // With room for so many.
  SplitRows(int64_t rows, int64_t width);

  // [rows, width] from the host, a stretch after another, as f32 in `staged` first.
  void load(Pieces& pieces, Buffer<float>& staged, const float* from, int64_t rows, int64_t width);
  // Bytes that this needs there.
  static double stagedBytesOf(int64_t rows, int64_t width);
  // The same from the device, each row times its factor where there are any.
  void split(Pieces& pieces, Global<const float> from, int64_t rows, int64_t width,
             Global<const float> factors = nullptr);

  Halves halves() const { return {{high_.read(), ld_, static_cast<int>(width_)}, low_.read()}; }

 private:
  // Makes room for so many.
  void reserve(Pieces& pieces, int64_t rows, int64_t width);
  void prepare(Pieces& pieces, int64_t rows, int64_t width);
  void launch(Pieces& pieces, Global<const float> from, int64_t first, int64_t count,
              Global<const float> factors);

  int64_t width_ = 0, ld_ = 0;
  Buffer<uint16_t> high_, low_;
};

// out [tokens][rows] = x F^T for F of so many rows, or back, x F for F of so many columns; launches of some
// milliseconds.
struct HalvesProduct {
  Halves x, factors;
  int64_t tokens, rows;
  Global<float> out;
  int64_t outLd;
  bool back = false;
  bool adds = false;  // to what is there
};
void multiply(Pieces& pieces, const HalvesProduct& product);

}  // namespace flrc::gpu
