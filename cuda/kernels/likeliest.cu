#include <cmath>

#include "kernels/logits.cuh"

namespace flrc::gpu {
namespace {

using namespace logits;

constexpr int kScratch = 4 * kWarps + 1;  // words of 8 bytes

FLRC_KERNEL void likeliestKernel(FLRC_PARAMS(LikeliestParams) p) {
  dependentTrigger();
  dependentWait();
  const LikeliestParams::Row row = p.rows[blockY()];
  const Own own = ownOf(row.from, p.vocab);
  const Shared<uint64_t> scratch = sharedMemory<uint64_t>(0);
  const Shared<double> totals = pointerCast<double>(scratch + kWarps);
  const auto larger = [](uint64_t a, uint64_t b) { return a > b ? a : b; };
  // By key, then by id from behind.
  uint64_t best = 0;
  float finite = 0;
  FLRC_UNROLL
  for (int i = 0; i < kOwn; ++i) {
    if (i >= own.count) continue;
    finite += own.logit[i] * 0.0f;
    best = larger(best, uint64_t{keyOf(own.logit[i])} << 32 | ~static_cast<uint32_t>(own.first + i));
  }
  if (!(row.to == row.from)) {
    if (own.count == kOwn && p.vocab % 4 == 0) {
      FLRC_UNROLL
      for (int i = 0; i < kOwn; i += 4) {
        pointerCast<Float4>(row.to)[(own.first + i) / 4] =
            Float4{own.logit[i], own.logit[i + 1], own.logit[i + 2], own.logit[i + 3]};
      }
    } else {
      for (int i = 0; i < own.count; ++i) row.to[own.first + i] = own.logit[i];
    }
  }
  best = blockReduce(best, scratch, larger);
  const float largest = floatOf(static_cast<uint32_t>(best >> 32));
  double total = 0, weighted = 0;
  FLRC_UNROLL
  for (int i = 0; i < kOwn; ++i) {
    if (i >= own.count) continue;
    const float shifted = own.logit[i] - largest, weight = expf(shifted);
    total += static_cast<double>(weight);
    weighted += static_cast<double>(weight) * static_cast<double>(shifted);
  }
  total = blockSum(total, totals);
  weighted = blockSum(weighted, totals + kWarps);
  finite = blockSum(finite, pointerCast<float>(scratch + 3 * kWarps));
  const int chunks = gridX();
  const Global<LikeliestPart> parts = p.parts + int64_t{blockY()} * chunks;
  if (threadIndex() == 0) parts[blockX()] = LikeliestPart{best, total, weighted, finite};
  if (!isLastBlock(p.counters + blockY(), static_cast<uint32_t>(chunks),
                   pointerCast<uint32_t>(scratch + 4 * kWarps))) {
    return;
  }

  const Global<const LikeliestPart> all = parts;
  best = 0;
  finite = 0;
  for (int c = threadIndex(); c < chunks; c += kThreads) {
    const LikeliestPart part = all[c];
    best = larger(best, part.best);
    finite += part.finite;
  }
  best = blockReduce(best, scratch, larger);
  const float top = floatOf(static_cast<uint32_t>(best >> 32));
  total = 0;
  weighted = 0;
  for (int c = threadIndex(); c < chunks; c += kThreads) {
    const LikeliestPart part = all[c];
    const double below = static_cast<double>(floatOf(static_cast<uint32_t>(part.best >> 32))) -
                         static_cast<double>(top),
                 scale = exp(below);
    total += scale * part.total;
    weighted += scale * (part.weighted + below * part.total);
  }
  total = blockSum(total, totals);
  weighted = blockSum(weighted, totals + kWarps);
  finite = blockSum(finite, pointerCast<float>(scratch + 3 * kWarps));
  if (threadIndex() > 0) return;
  const double logTotal = log(total);
  SampledRow sampled{static_cast<int32_t>(~static_cast<uint32_t>(best)), static_cast<float>(-logTotal),
                     static_cast<float>(logTotal - weighted / total)};
  if (!(finite == 0.0f)) sampled = SampledRow{-1, 0, 0};
  row.likeliest[0] = Likeliest{sampled, top, logTotal};
  row.sampled[0] = sampled;
}

}  // namespace

void launchLikeliest(Stream stream, const LikeliestParams& params, int rows, bool dependent) {
  LaunchShape shape = shapeOf(params.vocab, rows, kScratch * sizeof(uint64_t));
  shape.dependent = dependent;
  launch(stream, shape, likeliestKernel, params);
}

}  // namespace flrc::gpu
