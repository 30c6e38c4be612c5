#pragma once

#include "kernels/calibrate.h"
#include "runtime/pieces.h"

namespace flrc::gpu {

// f32 rows of the host as bf16 ones on the device, in two halves (kernels/calibrate.h) or rounded to one.
class SplitRows {
 public:
  enum class Kind { halves, rounded };
  explicit SplitRows(Kind kind) : kind_(kind) {}

  // Bytes of so many.
  static double bytesOf(Kind kind, int64_t rows, int64_t width);

  // [rows, width], a stretch after another.
  void load(Pieces& pieces, const float* from, int64_t rows, int64_t width);
  // The same from the device.
  void split(Pieces& pieces, Global<const float> from, int64_t rows, int64_t width);
  // Their transpose, [width, rows].
  void loadTransposed(Pieces& pieces, const float* from, int64_t rows, int64_t width);

  Activations high() const { return {high_.read(), ld_, static_cast<int>(width_)}; }
  // Null where they are rounded.
  Global<const uint16_t> low() const { return low_.read(); }
  int64_t ld() const { return ld_; }

 private:
  // Room for all of them.
  void prepare(Pieces& pieces, int64_t rows, int64_t width);
  // body(first, count) for stretches of rows, which are staged.
  template <typename Body>
  void forStretches(Pieces& pieces, const float* from, int64_t rows, int64_t width, const Body& body);
  // `count` rows of `width` values, of which the first goes to place `to`.
  void launch(Pieces& pieces, Global<const float> from, int64_t count, int64_t width, int64_t to,
              bool transposed);

  Kind kind_;
  int64_t width_ = 0, ld_ = 0;
  Buffer<uint16_t> high_, low_;
  Buffer<float> staged_;
};

// out [tokens][rows] = x F^T, for F [rows] of the same width.
void multiplySplit(Pieces& pieces, const SplitRows& x, const SplitRows& factors, int64_t tokens, int64_t rows,
                   Buffer<float>& out);

}  // namespace flrc::gpu
