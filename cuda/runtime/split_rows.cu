#include "runtime/split_rows.h"

namespace flrc::gpu {
namespace {

// Values that come from the host as f32 at a time.
constexpr int64_t kStaged = int64_t{1} << 23;

}  // namespace

double SplitRows::bytesOf(Kind kind, int64_t rows, int64_t width) {
  return static_cast<double>(rows) * static_cast<double>(wholeOctets(width)) * (kind == Kind::halves ? 4 : 2);
}

template <typename Body>
void SplitRows::forStretches(Pieces& pieces, const float* from, int64_t rows, int64_t width, const Body& body) {
  const int64_t most = std::max<int64_t>(1, kStaged / std::max<int64_t>(1, width));
  pieces.grow(staged_, static_cast<size_t>(std::min(rows, most) * width));
  for (int64_t first = 0; first < rows; first += most) {
    const int64_t count = std::min(most, rows - first);
    pieces.upload(staged_, 0, from + first * width, static_cast<size_t>(count * width));
    body(first, count);
  }
}

void SplitRows::load(Pieces& pieces, const float* from, int64_t rows, int64_t width) {
  prepare(pieces, rows, width);
  forStretches(pieces, from, rows, width, [&](int64_t first, int64_t count) {
    launch(pieces, staged_.read(), count, width, first * ld_, false);
  });
}

void SplitRows::split(Pieces& pieces, Global<const float> from, int64_t rows, int64_t width) {
  prepare(pieces, rows, width);
  launch(pieces, from, rows, width, 0, false);
}

void SplitRows::loadTransposed(Pieces& pieces, const float* from, int64_t rows, int64_t width) {
  prepare(pieces, width, rows);
  // What lies behind a row's values.
  pieces.clear(high_);
  if (kind_ == Kind::halves) pieces.clear(low_);
  forStretches(pieces, from, rows, width, [&](int64_t first, int64_t count) {
    launch(pieces, staged_.read(), count, width, first, true);
  });
}

void SplitRows::prepare(Pieces& pieces, int64_t rows, int64_t width) {
  width_ = width;
  ld_ = wholeOctets(width);
  pieces.grow(high_, static_cast<size_t>(rows * ld_));
  if (kind_ == Kind::halves) pieces.grow(low_, static_cast<size_t>(rows * ld_));
}

void SplitRows::launch(Pieces& pieces, Global<const float> from, int64_t count, int64_t width, int64_t to,
                       bool transposed) {
  launchSplit(pieces.stream(),
              {from, static_cast<int>(count), static_cast<int>(width), ld_, high_.global() + to,
               kind_ == Kind::halves ? low_.global() + to : nullptr, transposed});
}

void multiplySplit(Pieces& pieces, const SplitRows& x, const SplitRows& factors, int64_t tokens, int64_t rows,
                   Buffer<float>& out) {
  pieces.grow(out, static_cast<size_t>(tokens * rows));
  ThinProductParams params{};
  params.x = x.high();
  params.xLow = x.low();
  params.tokens = static_cast<int>(tokens);
  params.high = factors.high().data;
  params.low = factors.low();
  params.ld = factors.ld();
  params.rows = static_cast<int>(rows);
  params.out = out.global();
  launchThinProduct(pieces.stream(), params);
  pieces.multiplied(6.0 * static_cast<double>(tokens * rows) * params.x.width);
}

}  // namespace flrc::gpu
