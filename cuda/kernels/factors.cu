#include <cmath>

#include "kernels/bases.h"
#include "kernels/batches.cuh"
#include "kernels/factors.h"

namespace flrc::gpu {
namespace {

using namespace batches;

// Values of a stretch to a block, so that no matrix has too many blocks for a grid.
constexpr int64_t kStretch = int64_t{kThreads} * 16;

template <typename Body>
FLRC_DEVICE void forStretch(int64_t count, const Body& body) {
  const int64_t first = blockX() * kStretch, end = first + kStretch < count ? first + kStretch : count;
  for (int64_t i = first + threadIndex(); i < end; i += kThreads) body(i);
}

LaunchShape stretches(int64_t count) { return shapeOf((count + kStretch - 1) / kStretch, 1, 1); }

// Also not a number.
FLRC_DEVICE bool isBroken(double value) { return !(fabs(value) < 1e300); }

FLRC_KERNEL void unpackKernel(FLRC_PARAMS(UnpackParams) p) {
  const int64_t n = p.n;
  forStretch(n * n, [&](int64_t i) {
    const int64_t row = i / n, column = i % n, most = row > column ? row : column, least = row + column - most;
    const double value = p.packed[most * (most + 1) / 2 + least];
    if (isBroken(value)) atomicAdd(p.broken, 1u);
    p.full[i] = row == column ? value + p.added : value;
  });
}

FLRC_KERNEL void widenKernel(FLRC_PARAMS(WidenParams) p) {
  const int64_t rows = p.rows, columns = p.columns;
  forStretch(rows * columns, [&](int64_t i) {
    const double value = static_cast<double>(p.transposed ? p.w[i % rows * columns + i / rows] : p.w[i]);
    if (isBroken(value)) atomicAdd(p.broken, 1u);
    p.out[i] = value;
  });
}

FLRC_KERNEL void upperKernel(FLRC_PARAMS(UpperParams) p) {
  const int64_t n = p.n;
  forStretch(n * n, [&](int64_t i) {
    const int64_t row = i / n, column = i % n;
    p.upper[i] = column < row ? 0.0 : p.lower[i] * p.lengths[kLength * n + column];
  });
}

FLRC_KERNEL void identityKernel(FLRC_PARAMS(IdentityParams) p) {
  const int64_t n = p.n;
  forStretch(n * n, [&](int64_t i) { p.out[i] = i / n == i % n ? 1.0 : 0.0; });
}

FLRC_KERNEL void narrowKernel(FLRC_PARAMS(NarrowParams) p) {
  forStretch(p.count, [&](int64_t i) { p.out[i] = static_cast<float>(p.from[i]); });
}

}  // namespace

void launchUnpack(Stream stream, const UnpackParams& params) {
  launch(stream, stretches(int64_t{params.n} * params.n), unpackKernel, params);
}

void launchWiden(Stream stream, const WidenParams& params) {
  launch(stream, stretches(int64_t{params.rows} * params.columns), widenKernel, params);
}

void launchUpper(Stream stream, const UpperParams& params) {
  launch(stream, stretches(int64_t{params.n} * params.n), upperKernel, params);
}

void launchIdentity(Stream stream, const IdentityParams& params) {
  launch(stream, stretches(int64_t{params.n} * params.n), identityKernel, params);
}

void launchNarrow(Stream stream, const NarrowParams& params) {
  launch(stream, stretches(params.count), narrowKernel, params);
}

}  // namespace flrc::gpu
