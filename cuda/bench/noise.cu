#include "bench/noise.h"

namespace bench {
namespace {

using namespace flrc::gpu;

constexpr int kThreads = 256;

FLRC_DEVICE float noiseAt(uint64_t place) {
  uint64_t z = (place + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z ^= z >> 27;
  float sum = 0;
  for (int i = 0; i < 4; ++i) sum += static_cast<float>((z >> (16 * i)) & 0xffffu);
  return (sum / 65536 - 2) * 1.7f;
}

FLRC_KERNEL void noiseKernel(FLRC_PARAMS(NoiseParams) p) {
  const int64_t i = static_cast<int64_t>(blockX()) * kThreads + threadIndex();
  if (i >= p.count) return;
  const float value = noiseAt(static_cast<uint64_t>(i));
  if (p.halves != nullptr) p.halves[i] = static_cast<uint16_t>(floatToBits(value) >> 16);
  if (p.floats != nullptr) p.floats[i] = value;
  if (p.doubles != nullptr) {
    const double scale = p.falling > 0 ? pow(static_cast<double>(i % p.falling + 1), -0.75) : 1.0;
    p.doubles[i] = static_cast<double>(value) * scale;
  }
}

}  // namespace

void launchNoise(Stream stream, const NoiseParams& params) {
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>((params.count + kThreads - 1) / kThreads);
  shape.threads = kThreads;
  launch(stream, shape, noiseKernel, params);
}

}  // namespace bench
