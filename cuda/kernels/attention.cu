#include "kernels/attention_chunk.cuh"

// Decode attention, split over the positions. Where all blocks of a column and key head are a cluster, the
// first one puts their results together; else the block that comes last of a group does so for the group, and
// the group that comes last for the groups. Always in order, and with the same result.

namespace flrc::gpu {
namespace {

using namespace attention;

// Blocks of a cluster have all chunks there are.
constexpr int kClusterBlocks = 8;

// Working memory: [column][head][chunks, then groups].
struct Parts {
  Global<float> sums;     // [..][headDim]
  Global<Float2> scales;  // [..]
};

FLRC_DEVICE Parts partsOf(const AttentionParams& p) {
  const int64_t entries = int64_t{p.columns} * p.heads.heads * (p.chunks + p.groups);
  return {p.partial, pointerCast<Float2>(p.partial + entries * p.heads.headDim)};
}

// Parts [from, from + count) of each of a block's heads become part `to`, or, where that is -1, the output.
FLRC_DEVICE void combine(const AttentionParams& p, const Heads& heads, int from, int count, int to) {
  const int entries = p.chunks + p.groups, quads = p.heads.headDim / 4;
  const Parts parts = partsOf(p);
  const Global<Float4> quadSums = pointerCast<Float4>(parts.sums);
  for (int i = threadIndex(); i < heads.count * quads; i += kThreads) {
    const int64_t head = heads.first + i / quads, entry = head * entries;
    const Global<const Float2> scales = parts.scales + (entry + from);
    const Global<const Float4> sums = quadSums + ((entry + from) * quads + i % quads);
    Float4 total = {};
    const Float2 scale = merge(
        count, [&](int part) -> Float2 { return scales[part]; },
        [&](int part, float factor) {
          const Float4 sum = sums[int64_t{part} * quads];
          total = {fusedMultiplyAdd(factor, sum.x, total.x), fusedMultiplyAdd(factor, sum.y, total.y),
                   fusedMultiplyAdd(factor, sum.z, total.z), fusedMultiplyAdd(factor, sum.w, total.w)};
        });
    if (to >= 0) {
      quadSums[(entry + to) * quads + i % quads] = total;
      if (i % quads == 0) parts.scales[entry + to] = scale;
    } else {
      pointerCast<Float4>(p.out)[head * quads + i % quads] =
          Float4{total.x / scale.y, total.y / scale.y, total.z / scale.y, total.w / scale.y};
    }
  }
}

// kCluster: the grid's blocks along x are one cluster.
template <int kWidth, bool kCluster>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kThreads, 4) attentionKernel(FLRC_PARAMS(AttentionParams) p) {
  const RotateParams& r = p.heads;
  dependentTrigger();
  const CacheRow row = r.rows[blockZ()];
  const Span span = spanOf(row.position, p.window, blockX());
  const int used = chunksUpTo(row.position, p.window);
  const bool has = blockX() < used;
  if (!kCluster && !has) return;
  const int width = kWidth == kAnyWidth ? r.headDim : kWidth;
  const Heads heads = headsOf(p, blockZ(), blockY());
  const Areas areas = areasOf(width);
  if (has) attendChunk<kWidth>(p, ProductHeads{r}, row, span, heads, areas);
  const Shared<const float> sums = areas.sums;

  if constexpr (kCluster) {
    syncCluster();
    for (int i = threadIndex(); blockX() == 0 && i < heads.count * width; i += kThreads) {
      float total = 0;
      const Float2 scale = merge(
          used, [&](int block) -> Float2 { return peerShared(areas.scales, block)[i / width]; },
          [&](int block, float factor) {
            total = fusedMultiplyAdd(factor, peerShared(areas.sums, block)[i], total);
          });
      p.out[heads.first * width + i] = total / scale.y;
    }
    // Whoever is read from must still be there.
    meetCluster();
    return;
  }

  if (used == 1) {
    syncBlock();
    for (int i = threadIndex(); i < heads.count * width; i += kThreads) {
      const Float2 scale = areas.scales[i / width];
      p.out[heads.first * width + i] = sums[i] / scale.y;
    }
    return;
  }
  const Parts parts = partsOf(p);
  const int entries = p.chunks + p.groups;
  for (int i = threadIndex(); i < heads.count * width; i += kThreads) {
    const int64_t entry = (heads.first + i / width) * entries + blockX();
    parts.sums[entry * width + i % width] = sums[i];
    if (i % width == 0) parts.scales[entry] = areas.scales[i / width];
  }
  const Global<uint32_t> counters = p.counters + (int64_t{blockZ()} * gridY() + blockY()) * (p.groups + 1);
  const int groups = (used + kAttentionGroup - 1) / kAttentionGroup, own = blockX() / kAttentionGroup;
  const int from = own * kAttentionGroup, after = used - from;
  const int count = after < kAttentionGroup ? after : kAttentionGroup;
  if (!isLastBlock(counters + own, static_cast<uint32_t>(count), areas.last)) return;
  combine(p, heads, from, count, groups > 1 ? p.chunks + own : -1);
  if (groups == 1 || !isLastBlock(counters + p.groups, static_cast<uint32_t>(groups), areas.last)) return;
  combine(p, heads, p.chunks, groups, -1);
}

template <int kWidth>
void launchFor(Stream stream, const AttentionParams& params, const AttentionLaunch& how) {
  const RotateParams& r = params.heads;
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>(params.chunks);
  shape.gridY = static_cast<unsigned>(r.kvHeads * params.parts);
  shape.gridZ = static_cast<unsigned>(params.columns);
  shape.threads = kThreads;
  shape.dependent = how.dependent;
  shape.sharedBytes = sharedBytes(r.headDim, areTogether(kWidth));
  unsigned blocks = 1;
  while (blocks < shape.gridX) blocks *= 2;
  if (!how.clusters || params.chunks > kClusterBlocks ||
      blocks > mostClusterBlocks(stream, shape, attentionKernel<kWidth, true>)) {
    return launch(stream, shape, attentionKernel<kWidth, false>, params);
  }
  shape.gridX = shape.cluster = blocks;
  launch(stream, shape, attentionKernel<kWidth, true>, params);
}

}  // namespace

void launchAttention(Stream stream, const AttentionParams& given, int columns, int length,
                     const AttentionLaunch& how) {
  AttentionParams params = given;
  params.columns = columns;
  params.chunks = attentionChunks(length, params.window);
  params.groups = attentionGroups(params.chunks);
  shapeAttention(params);
  switch (params.heads.headDim) {
    case 64:
      return launchFor<64>(stream, params, how);
    case 128:
      return launchFor<128>(stream, params, how);
    default:
      launchFor<kAnyWidth>(stream, params, how);
  }
}

}  // namespace flrc::gpu
