#include "runtime/weight_halves.h"

namespace flrc::gpu {

double WeightHalves::bytesOf(const RowWeights& of, int64_t rows) {
  return of.dtype == Dtype::bf16 ? 0.0 : SplitRows::bytesOf(rows, of.cols);
}

void WeightHalves::load(Pieces& pieces, const RowWeights& of, int64_t first, int64_t count) {
  const auto width = static_cast<int>(of.cols);
  if (of.dtype == Dtype::bf16) {
    const int64_t ld = lineWeights(of.dtype, of.cols);
    halves_ = Halves{{viewAs<uint16_t>(of.data), ld, width}, nullptr}.from(first);
    return;
  }
  const int64_t ld = wholeOctets(of.cols);
  for (Buffer<uint16_t>* half : {&high_, &low_}) pieces.grow(*half, static_cast<size_t>(count * ld));
  launchWiden(pieces.stream(), of.dtype,
              {of.data.read(), static_cast<int>(first), static_cast<int>(count), width, ld, high_.global(),
               low_.global()});
  halves_ = {{high_.read(), ld, width}, low_.read()};
}

}  // namespace flrc::gpu
