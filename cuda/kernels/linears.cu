#include <algorithm>
#include <stdexcept>

#include "kernels/linears.h"
#include "kernels/linears_panels.cuh"
#include "kernels/linears_rows.cuh"
#include "kernels/warp.cuh"

// A launch has two phases with a barrier of the grid between them: rows times x, which gives t (and what is
// dense), and panels times t. Blocks share rows and units of panels evenly. Each fetches the first of its
// weights of both phases to shared memory before it waits for the launch ahead, so that memory is busy while x,
// and then t, are made.

namespace flrc::gpu {
namespace linears {
namespace {

template <Dtype kType, int kColumns, bool kBulk>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kThreads, 1) linearsKernel(FLRC_PARAMS(LinearsParams) p) {
  const Areas areas = areasOf<kColumns>(p);
  const auto rows = static_cast<unsigned>(allRows(p)), block = static_cast<unsigned>(blockX());
  const auto blocks = static_cast<unsigned>(gridX());
  const int begin = static_cast<int>(rows * block / blocks),
            end = static_cast<int>(rows * (block + 1) / blocks);
  dependentTrigger();
  Staging<kBulk>::init(areas.phases, 2);
  shareUnits(p, areas);
  syncBlock();
  const int staged = stageWeights<kType, kBulk>(p, areas, begin, end);
  dependentWait();

  // Bulk copies are waited for where their rows are used.
  if constexpr (!kBulk) Staging<kBulk>(areas.phases, 0).template wait<1>();
  int loaded = -1;
  for (int first = begin; first < end; first += kPassRows) {
    const int count = end - first < kPassRows ? end - first : kPassRows;
    rowPass<kType, kColumns, kBulk>(p, areas, first, count, begin, staged, loaded);
  }
  if (p.panelJobs > 0 || p.gatherJobs > 0) gridBarrier(p.counter);
  // Panels may have been on their way through all of this. unitOutputs has the barrier that follows.
  Staging<kBulk>(areas.phases, 1).template wait<0>();
  loaded = -1;
  int bytes = 0;
  forUnits(p, areas, [&](int j, int unit) {
    const PanelJob& job = p.panels[j];
    const int ranks = stagedRanks<kType>(p, job, bytes);
    unitOutputs<kType, kColumns>(p, areas, job, unit, ranks, areas.stagedPanels + bytes, loaded);
    bytes += ranks * static_cast<int>(groupBytes(kType));
  });
  if (p.gatherJobs == 0) return;

  gridBarrier(p.counter);
  for (int g = 0; g < p.gatherJobs; ++g) gatherOutputs(p, p.gathers[g]);
}

template <Dtype kType, int kColumns>
void launchFor(Stream stream, LinearsParams params, const LinearsLaunch& how) {
  constexpr int kTile = kColumns * kSegment;
  int longest = params.stride;
  for (int j = 0; j < params.panelJobs; ++j) longest = std::max(longest, params.panels[j].rank);
  params.xFloats = std::min(kMostXFloats, kColumns * (longest + kSegment - 1) / kSegment * kSegment);
  params.xFloats = std::max(kTile, params.xFloats / kTile * kTile);
  // Half for each phase; what a block has no rows or panels for stays empty.
  const int half = params.panelJobs > 0 ? how.stagedBytes / 2 / 16 * 16 : how.stagedBytes / 16 * 16;
  params.stagedRowBytes = half;
  params.stagedPanelBytes = params.panelJobs > 0 ? half : 0;
  params.aheadBytes = how.aheadBytes / 32 * 32;

  LaunchShape shape;
  shape.gridX = static_cast<unsigned>(how.blocks);
  shape.threads = kThreads;
  shape.cooperative = params.panelJobs > 0 || params.gatherJobs > 0;
  shape.dependent = how.dependent;
  shape.sharedBytes =
      kPhaseBytes + kUnitsBytes + static_cast<size_t>(params.stagedRowBytes) +
      static_cast<size_t>(params.stagedPanelBytes) +
      sizeof(float) *
          static_cast<size_t>(params.xFloats + partialFloats(params.xFloats, kColumns) + kPassRows * kColumns);
  if (how.bulk) {
    launch(stream, shape, linearsKernel<kType, kColumns, true>, params);
  } else {
    launch(stream, shape, linearsKernel<kType, kColumns, false>, params);
  }
}

template <Dtype kType>
void launchOf(Stream stream, const LinearsParams& params, const LinearsLaunch& how) {
  if (params.columns == 1) {
    launchFor<kType, 1>(stream, params, how);
  } else if (params.columns <= 4) {
    launchFor<kType, 4>(stream, params, how);
  } else {
    launchFor<kType, kMaxColumns>(stream, params, how);
  }
}

}  // namespace
}  // namespace linears

void launchLinears(Stream stream, Dtype dtype, const LinearsParams& params, const LinearsLaunch& how) {
  switch (dtype) {
    case Dtype::bf16:
      return linears::launchOf<Dtype::bf16>(stream, params, how);
    case Dtype::int8:
      return linears::launchOf<Dtype::int8>(stream, params, how);
    case Dtype::int4:
      return linears::launchOf<Dtype::int4>(stream, params, how);
    case Dtype::f32:
      throw std::invalid_argument(
          "f32 weights are not for the GPU: they are narrowed to bf16 when a model is loaded");
  }
}

}  // namespace flrc::gpu
