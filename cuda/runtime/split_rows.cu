#include <algorithm>

#include "runtime/split_rows.h"
#include "runtime/warpgroup_trial.h"

namespace flrc::gpu {
namespace {

// Values that come from the host as f32 at a time.
constexpr int64_t kStaged = int64_t{1} << 23;

int64_t stagedRows(int64_t rows, int64_t width) {
  return std::min(rows, std::max<int64_t>(1, kStaged / std::max<int64_t>(1, width)));
}

}  // namespace

double RoundedRows::bytesOf(int64_t rows, int64_t width) {
  return 2 * static_cast<double>(rows) * static_cast<double>(wholeOctets(width));
}

RoundedRows::RoundedRows(int64_t rows, int64_t width)
    : values_(static_cast<size_t>(rows * wholeOctets(width))) {}

void RoundedRows::round(Pieces& pieces, Global<const float> from, int64_t rows, int64_t width) {
  width_ = width;
  ld_ = wholeOctets(width);
  pieces.grow(values_, static_cast<size_t>(rows * ld_));
  launchSplit(pieces.stream(),
              {from, static_cast<int>(rows), static_cast<int>(width), ld_, values_.global(), nullptr, nullptr});
}

double SplitRows::bytesOf(int64_t rows, int64_t width) {
  return 4 * static_cast<double>(rows) * static_cast<double>(wholeOctets(width));
}

SplitRows::SplitRows(int64_t rows, int64_t width)
    : high_(static_cast<size_t>(rows * wholeOctets(width))), low_(high_.count()) {}

void SplitRows::reserve(Pieces& pieces, int64_t rows, int64_t width) {
  for (Buffer<uint16_t>* half : {&high_, &low_}) {
    pieces.grow(*half, static_cast<size_t>(rows * wholeOctets(width)));
  }
}

double SplitRows::stagedBytesOf(int64_t rows, int64_t width) {
  return 4 * static_cast<double>(stagedRows(rows, width)) * static_cast<double>(width);
}

void SplitRows::load(Pieces& pieces, Buffer<float>& staged, const float* from, int64_t rows, int64_t width) {
  prepare(pieces, rows, width);
  const int64_t most = stagedRows(rows, width);
  pieces.grow(staged, static_cast<size_t>(most * width));
  for (int64_t first = 0; first < rows; first += most) {
    const int64_t count = std::min(most, rows - first);
    pieces.upload(staged, 0, from + first * width, static_cast<size_t>(count * width));
    launch(pieces, staged.read(), first, count, nullptr);
  }
}

void SplitRows::split(Pieces& pieces, Global<const float> from, int64_t rows, int64_t width,
                      Global<const float> factors) {
  prepare(pieces, rows, width);
  launch(pieces, from, 0, rows, factors);
}

void SplitRows::prepare(Pieces& pieces, int64_t rows, int64_t width) {
  width_ = width;
  ld_ = wholeOctets(width);
  reserve(pieces, rows, width);
}

void SplitRows::launch(Pieces& pieces, Global<const float> from, int64_t first, int64_t count,
                       Global<const float> factors) {
  launchSplit(pieces.stream(), {from, static_cast<int>(count), static_cast<int>(width_), ld_,
                                high_.global() + first * ld_, low_.global() + first * ld_, factors});
}

void multiply(Pieces& pieces, const HalvesProduct& product) {
  constexpr int64_t kTile = 128;
  const int products = 1 + (product.x.low != nullptr) + (product.factors.low != nullptr);
  const double perToken =
      2.0 * products * static_cast<double>(product.x.high.width) * static_cast<double>(product.rows);
  pieces.multiplyEach(product.tokens, kTile, perToken, [&](int64_t first, int64_t count) {
    const Halves x = product.x.from(first);
    launchThinProduct(pieces.stream(),
                      {x.high, x.low, static_cast<int>(count), product.factors.high.data, product.factors.low,
                       product.factors.high.ld, static_cast<int>(product.rows),
                       product.out + first * product.outLd, product.outLd, product.back, product.adds},
                      trustedWarpgroups());
  });
}

}  // namespace flrc::gpu
