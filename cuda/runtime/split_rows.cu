#include "runtime/split_rows.h"

namespace flrc::gpu {
namespace {

// Values that come from the host as f32 at a time.
constexpr int64_t kStaged = int64_t{1} << 23;

int64_t padded(int64_t width) { return (width + 7) / 8 * 8; }

}  // namespace

double SplitRows::bytesOf(Kind kind, int64_t rows, int64_t width) {
  return static_cast<double>(rows) * static_cast<double>(padded(width)) * (kind == Kind::halves ? 4 : 2);
}

void SplitRows::load(Pieces& pieces, const float* from, int64_t rows, int64_t width) {
  prepare(pieces, rows, width);
  const int64_t most = std::max<int64_t>(1, kStaged / std::max<int64_t>(1, width));
  pieces.grow(staged_, static_cast<size_t>(std::min(rows, most) * width));
  for (int64_t first = 0; first < rows; first += most) {
    const int64_t count = std::min(most, rows - first);
    pieces.upload(staged_, 0, from + first * width, static_cast<size_t>(count * width));
    launch(pieces, staged_.read(), first, count);
  }
}

void SplitRows::split(Pieces& pieces, Global<const float> from, int64_t rows, int64_t width) {
  prepare(pieces, rows, width);
  launch(pieces, from, 0, rows);
}

void SplitRows::prepare(Pieces& pieces, int64_t rows, int64_t width) {
  width_ = width;
  ld_ = padded(width);
  pieces.grow(high_, static_cast<size_t>(rows * ld_));
  if (kind_ == Kind::halves) pieces.grow(low_, static_cast<size_t>(rows * ld_));
}

void SplitRows::launch(Pieces& pieces, Global<const float> from, int64_t first, int64_t count) {
  launchSplit(pieces.stream(),
              {from, static_cast<int>(count), static_cast<int>(width_), ld_, high_.global() + first * ld_,
               kind_ == Kind::halves ? low_.global() + first * ld_ : nullptr});
}

}  // namespace flrc::gpu
