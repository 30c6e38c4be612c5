#include <cmath>

#include "kernels/logits.cuh"

namespace flrc::gpu {
namespace {

using namespace logits;

constexpr size_t kSharedBytes = kWarps * sizeof(LikeliestPart) + sizeof(uint32_t);

FLRC_DEVICE uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }
FLRC_DEVICE float logitOf(uint64_t best) { return floatOf(static_cast<uint32_t>(best >> 32)); }

FLRC_DEVICE uint64_t warpLargest(uint64_t value) {
  FLRC_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) value = larger(value, shuffleXor(value, mask));
  return value;
}

// All of `count` parts, by one warp, in each of its lanes.
template <typename Parts>
FLRC_DEVICE LikeliestPart merge(const Parts& parts, int count) {
  LikeliestPart all{0, 0, 0, 0};
  for (int i = laneIndex(); i < count; i += 32) all.best = larger(all.best, LikeliestPart(parts[i]).best);
  all.best = warpLargest(all.best);
  for (int i = laneIndex(); i < count; i += 32) {
    const LikeliestPart part = parts[i];
    // A warp without logits has nothing to add.
    const double below =
        part.best == 0 ? 0.0 : static_cast<double>(logitOf(part.best)) - static_cast<double>(logitOf(all.best));
    const double scale = exp(below);
    all.total += scale * part.total;
    all.weighted += scale * (part.weighted + below * part.total);
    all.finite += part.finite;
  }
  return {all.best, warpSum(all.total), warpSum(all.weighted), warpSum(all.finite)};
}

// Of a thread's logits and those of its warp.
FLRC_DEVICE LikeliestPart partOf(const Own& own) {
  LikeliestPart part{0, 0, 0, 0};
  FLRC_UNROLL
  for (int i = 0; i < kOwn; ++i) {
    if (i >= own.count) continue;
    part.finite += own.logit[i] * 0.0f;
    // By key, then by id from behind.
    part.best = larger(part.best, uint64_t{keyOf(own.logit[i])} << 32 | ~static_cast<uint32_t>(own.first + i));
  }
  part.best = warpLargest(part.best);
  const float largest = logitOf(part.best);
  FLRC_UNROLL
  for (int i = 0; i < kOwn; ++i) {
    if (i >= own.count) continue;
    const float shifted = own.logit[i] - largest, weight = expf(shifted);
    part.total += static_cast<double>(weight);
    part.weighted += static_cast<double>(weight) * static_cast<double>(shifted);
  }
  return {part.best, warpSum(part.total), warpSum(part.weighted), warpSum(part.finite)};
}

FLRC_DEVICE void copyTo(Global<float> to, const Own& own, int vocab) {
  if (own.count < kOwn || vocab % 4 != 0) {
    for (int i = 0; i < own.count; ++i) to[own.first + i] = own.logit[i];
    return;
  }
  FLRC_UNROLL
  for (int i = 0; i < kOwn; i += 4) {
    pointerCast<Float4>(to)[(own.first + i) / 4] =
        Float4{own.logit[i], own.logit[i + 1], own.logit[i + 2], own.logit[i + 3]};
  }
}

FLRC_KERNEL void likeliestKernel(FLRC_PARAMS(LikeliestParams) p) {
  dependentTrigger();
  dependentWait();
  const LikeliestParams::Row row = p.rows[blockY()];
  const Own own = ownOf(row.from, p.vocab, blockX());
  const Shared<LikeliestPart> warps = sharedMemory<LikeliestPart>(0);
  if (!(row.to == row.from)) copyTo(row.to, own, p.vocab);
  const LikeliestPart part = partOf(own);
  if (laneIndex() == 0) warps[warpIndex()] = part;
  syncBlock();
  const int chunks = gridX();
  const Global<LikeliestPart> parts = p.parts + int64_t{blockY()} * chunks;
  if (warpIndex() == 0) {
    const LikeliestPart block = merge(warps, kWarps);
    if (laneIndex() == 0) parts[blockX()] = block;
  }
  if (!isLastBlock(p.counters + blockY(), static_cast<uint32_t>(chunks),
                   pointerCast<uint32_t>(warps + kWarps)) ||
      warpIndex() > 0) {
    return;
  }

  const LikeliestPart all = merge(Global<const LikeliestPart>(parts), chunks);
  if (laneIndex() > 0) return;
  const double logTotal = log(all.total);
  SampledRow sampled{static_cast<int32_t>(~static_cast<uint32_t>(all.best)), static_cast<float>(-logTotal),
                     static_cast<float>(logTotal - all.weighted / all.total)};
  if (!(all.finite == 0.0f)) sampled = SampledRow{-1, 0, 0};
  row.likeliest[0] = Likeliest{sampled, logitOf(all.best), logTotal};
  row.sampled[0] = sampled;
}

}  // namespace

void launchLikeliest(Stream stream, const LikeliestParams& params, int rows, bool dependent) {
  LaunchShape shape = shapeOf(logitsChunks(params.vocab), rows, kSharedBytes);
  shape.dependent = dependent;
  launch(stream, shape, likeliestKernel, params);
}

}  // namespace flrc::gpu
