#include <string>
#include <vector>

#include "kernels/factors.h"
#include "kernels/pivots.h"
#include "runtime/pieces.h"
#include "runtime/pivoting.h"

namespace flrc::gpu {

int64_t pivotedQrOf(const float* u, int64_t s, int64_t m, double* r, int32_t* column,
                    const BackendCancel& cancel) {
  const Alone alone(cancel);
  const auto rows = static_cast<size_t>(s), width = static_cast<size_t>(m), count = rows * width;
  if (pivotSharedBytes(static_cast<int>(s)) > mostSharedBytes()) {
    throw Failure(BackendCode::device,
                  "pivoting a block of " + std::to_string(s) +
                      " ranks is more than this GPU's blocks can do in shared memory; compress "
                      "on the CPU (device cpu)");
  }
  checkRoom("pivoting a block of " + std::to_string(s) + " ranks of " + std::to_string(m),
            2.5 * 8 * static_cast<double>(s) * static_cast<double>(m) + 8.0 * static_cast<double>(s * s));
  Buffer<float> from(count);
  Buffer<double> ranks(count), reduced(count), basis(rows * rows), norms(width);
  Buffer<int32_t> order(rows), found(1), columns(width);
  Buffer<uint32_t> broken(1);
  Pieces pieces(cancel);
  pieces.clear(broken);
  pieces.upload(from, 0, u, count);
  launchWiden(pieces.stream(),
              {from.read(), ranks.global(), static_cast<int>(s), static_cast<int>(m), false, broken.global()});
  uint32_t brokenValues = 0;
  pieces.download(broken, 0, &brokenValues, 1);
  if (brokenValues > 0) throw Failure(BackendCode::numeric, "a factor to pivot is not finite");
  launchPivotedQr(pieces.stream(),
                  {ranks.global(), reduced.global(), basis.global(), norms.global(), order.global(),
                   found.global(), static_cast<int>(s), static_cast<int>(m)},
                  1, pieces.pace());
  int32_t k = 0;
  pieces.download(found, 0, &k, 1);
  pieces.download(order, 0, column, static_cast<size_t>(k));
  std::vector<bool> isPivot(width);
  for (int32_t i = 0; i < k; ++i) isPivot[static_cast<size_t>(column[i])] = true;
  int32_t* next = column + k;
  for (int32_t output = 0; output < m; ++output) {
    if (!isPivot[static_cast<size_t>(output)]) *next++ = output;
  }
  if (k == 0) return 0;
  pieces.upload(columns, 0, column, width);
  // The ranks are not needed any more.
  launchColumns(pieces.stream(), {reduced.read(), columns.read(), ranks.global(), k, static_cast<int>(m)});
  pieces.download(ranks, 0, r, static_cast<size_t>(k) * width);
  return k;
}

}  // namespace flrc::gpu
