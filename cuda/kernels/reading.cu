#include "kernels/reading.h"

namespace flrc::gpu {
namespace {

constexpr int kThreads = 1024;
// Words that a thread has under way together.
constexpr int kAhead = 8;

FLRC_KERNEL void readKernel(FLRC_PARAMS(ReadParams) p) {
  uint32_t sum = 0;
  const int64_t threads = static_cast<int64_t>(gridX()) * kThreads;
  const int64_t first = static_cast<int64_t>(blockX()) * kThreads + threadIndex();
  for (int64_t i = first; i + (kAhead - 1) * threads < p.words; i += kAhead * threads) {
    Word4 word[kAhead];
    FLRC_UNROLL
    for (int a = 0; a < kAhead; ++a) word[a] = streamed(p.data + (i + a * threads));
    FLRC_UNROLL
    for (int a = 0; a < kAhead; ++a) sum += word[a].x ^ word[a].y ^ word[a].z ^ word[a].w;
  }
  // Hardly ever so, which the compiler does not know.
  if (sum == 0x9e3779b9u) p.out[0] = sum;
}

}  // namespace

void launchRead(Stream stream, const ReadParams& params, int multiprocessors) {
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>(2 * multiprocessors);
  shape.threads = kThreads;
  launch(stream, shape, readKernel, params);
}

}  // namespace flrc::gpu
