#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/linears.h"
#include "kernels/linears_stream.cuh"

// A launch multiplies rows by x, which gives t (and what is dense), and panels by t. Blocks share lines of both
// evenly. Before it waits for the launch ahead a block has its first weights on their way to registers, and has
// the L2 cache fetch more, so that memory is busy while x, and then t, are made. Nobody waits for all of t at
// once: every value says itself when it is there.

namespace flrc::gpu {
namespace linears {
namespace {

// Has the L2 cache fetch the block's first lines of every job, rows' and panels' alike as many bytes.
FLRC_DEVICE void fetchAhead(const LinearsParams& p, const Areas& areas) {
  int left = p.aheadBytes / 2;
  for (int job = 0; job < p.rowJobs + p.panelJobs; ++job) {
    if (job == p.rowJobs) left = p.aheadBytes / 2;
    const Lines lines = linesOf(p, job);
    const int begin = areas.shares[2 * job], end = areas.shares[2 * job + 1],
              used = (lines.cut.headStrips + lines.cut.strips) * kStripBytes;
    if (end <= begin || left <= 0) continue;
    for (int i = warpIndex(); i < end - begin && i * used < left; i += kWarps) {
      const int64_t line = static_cast<int64_t>(begin + i) * lines.cut.lineStrips * kStripBytes;
      for (int at = laneIndex() * kFetchBytes; at < used; at += 32 * kFetchBytes)
        fetchToL2(lines.data + (line + at));
    }
    left -= (end - begin) * used;
  }
}

// The results of a piece from the sums of its slices: eight lanes have one, each a slice.
template <bool kWhole>
FLRC_DEVICE void putPiece(const LinearsParams& p, const Areas& areas, const Cut& cut, const Piece& piece,
                          uint32_t tag) {
  static_assert(kWarps <= 8, "a slice for each of eight lanes");
  const int sums = piece.count * p.columns, slice = laneIndex() % 8, slices = 1 << cut.bits;
  const int kept = kWhole ? 1 : sumsKept(cut.passes);
  const Target to = areas.targets[piece.job];
  const bool rows = piece.job < p.rowJobs;
  const Global<uint64_t> tagged = rows ? p.t : p.u;
  const int taggedWidth = rows ? p.tWidth : p.uWidth;
  for (int first = warpIndex() * 4; first < sums; first += 4 * kWarps) {
    const int i = first + laneIndex() / 8, inPiece = p.columns == 1 ? i : i / p.columns;
    const int column = i - inPiece * p.columns, line = piece.first + inPiece;
    float total = 0;
    if (i < sums && slice < slices) {
      const Shared<const float> part =
          areas.partial + (((inPiece << cut.bits) + slice) * kept * p.columns + column);
      total = part[0];
      if (!kWhole && kept > 1) {
        float all[8];
        FLRC_UNROLL
        for (int k = 0; k < 8; ++k) all[k] = part[k * p.columns];
        total = addedUp(all);
      }
    }
    FLRC_UNROLL
    for (int mask = 4; mask > 0; mask /= 2) total += shuffleXor(total, mask);
    if (i >= sums || slice > 0) continue;
    if (to.tagged >= 0)
      sendTagged(tagged + (static_cast<int64_t>(column) * taggedWidth + to.tagged + line), total, tag);
    if (to.y == nullptr) continue;
    const int output = to.scatter != nullptr ? to.scatter[line] : line;
    const float bias = to.bias != nullptr ? to.bias[output] : 0.0f;
    Global<float>(to.y)[static_cast<int64_t>(column) * to.outputs + output] = total + bias;
  }
}

FLRC_DEVICE float received(Global<const uint64_t> from, uint32_t tag) {
  float value[1];
  receiveTagged<1>(from, tag, value);
  return value[0];
}

FLRC_DEVICE void gatherOutputs(const LinearsParams& p, const GatherJob& job, uint32_t tag) {
  for (int i = blockX() * kThreads + threadIndex(); i < job.outputs * p.columns; i += gridX() * kThreads) {
    const int64_t column = i / job.outputs, output = i % job.outputs;
    float total = job.bias != nullptr ? job.bias[output] : 0.0f;
    for (int b = 0; b < job.blocks; ++b) {
      const int at = job.gather[b][output];
      total += at < job.rank[b] ? received(p.t + (column * p.tWidth + job.t[b] + at), tag)
                                : received(p.u + (column * p.uWidth + job.u[b] + at - job.rank[b]), tag);
    }
    job.y[column * job.outputs + output] = total;
  }
}

template <Dtype kType, bool kBulk>
struct StreamOf {
  using Type = SlotStream<kType>;
};
template <>
struct StreamOf<Dtype::bf16, true> {
  using Type = BulkStream;
};

// kWhole: every line is multiplied in one pass. Two blocks fit on a multiprocessor, so that the next launch's
// begin while this one's work.
template <Dtype kType, bool kBulk, bool kWhole>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kThreads, 2) linearsKernel(FLRC_PARAMS(LinearsParams) p) {
  const Areas areas = areasOf<kType, kBulk>(p);
  dependentTrigger();
  shareLines(p, areas);
  syncBlock();
  Piece piece{0, 0, 0};
  typename StreamOf<kType, kBulk>::Type stream(areas);
  bool more = nextPiece<kType>(p, areas, piece);
  if (more) {
    const Lines lines = linesOf(p, piece.job);
    stream.begin(lines, walkOf(lines.cut, piece, 0), piece);
  }
  fetchAhead(p, areas);
  dependentWait();

  const uint32_t tag = readFresh(p.epochs + blockX()) + 1;
  const bool idle = !more;
  Loaded loaded;
  while (more) {
    const Lines lines = linesOf(p, piece.job);
    const int passes = kWhole ? 1 : lines.cut.passes;
    for (int pass = 0; pass < passes; ++pass) {
      const Loaded wanted = inputsOf<kType>(lines, piece, pass);
      if (pass > 0) syncBlock();
      if (!(wanted == loaded)) loadInputs<kType>(p, areas, lines, piece, pass, tag);
      loaded = wanted;
      syncBlock();
      multiply<kType, kWhole>(p, areas, lines, piece, pass, stream);
      if (pass + 1 < passes) stream.begin(lines, walkOf(lines.cut, piece, pass + 1), piece);
    }
    syncBlock();
    putPiece<kWhole>(p, areas, lines.cut, piece, tag);
    more = nextPiece<kType>(p, areas, piece);
    if (more) {
      const Lines next = linesOf(p, piece.job);
      stream.begin(next, walkOf(next.cut, piece, 0), piece);
    }
  }
  for (int g = 0; g < p.gatherJobs; ++g) gatherOutputs(p, p.gathers[g], tag);
  // Whoever had nothing to multiply has met no barrier since reading what is raised here.
  if (idle) syncBlock();
  if (threadIndex() == 0) {
    for (int e = blockX(); e < kMostGrid; e += gridX()) p.epochs[e] = tag;
  }
}

FLRC_KERNEL void gatherKernel(FLRC_PARAMS(GatherParams) p) {
  const int i = blockX() * kThreads + threadIndex();
  if (i >= p.job.outputs * p.columns) return;
  const int64_t column = i / p.job.outputs, output = i % p.job.outputs;
  float total = p.job.bias != nullptr ? p.job.bias[output] : 0.0f;
  for (int b = 0; b < p.job.blocks; ++b) {
    const int at = p.job.gather[b][output];
    total += at < p.job.rank[b] ? p.t[column * p.tWidth + p.job.t[b] + at]
                                : p.u[column * p.uWidth + p.job.u[b] + at - p.job.rank[b]];
  }
  p.job.y[column * p.job.outputs + output] = total;
}

// Of shared memory, at most: for inputs, so that one column's of 14336 take one pass (of 7680 in bf16, two
// blocks fit on a multiprocessor of sm_90); and for sums, for each column.
constexpr int inputsBudget(int columns) { return (columns == 1 ? 60 : 136) * 1024; }
constexpr int kSumsBudget = 8 * 1024;

Cut cutOf(int64_t strips, int64_t lineStrips, int64_t headStrips) {
  Cut cut{};
  cut.strips = static_cast<int>(strips);
  cut.lineStrips = static_cast<int>(lineStrips);
  cut.headStrips = static_cast<int>(headStrips);
  cut.bits = sliceBits(cut.strips);
  cut.longest = longestSlice(cut.strips, cut.bits);
  return cut;
}

// Shares all lines between blocks, and cuts them so that what they need fits into shared memory. Returns the
// bytes of it, or 0 where so many columns do not fit.
template <Dtype kType, bool kBulk>
size_t cutLines(LinearsParams& params, int blocks, int sharedBytes) {
  constexpr int kGroups = Strip<kType>::kGroups, kFixed = kFixedBytes<kType, kBulk>;
  std::vector<Cut*> cuts;
  if (params.rowJobs > 0) {
    params.rowCut = cutOf(stripsOf(kType, params.inputs), rowStrips(kType, params.inputs),
                          headStrips(kType, params.inputs));
    cuts.push_back(&params.rowCut);
  }
  for (int j = 0; j < params.panelJobs; ++j) {
    PanelJob& job = params.panels[j];
    job.cut = cutOf(stripsOf(kType, job.rank), stripsOf(kType, job.storedRank), 0);
    if (job.rank > 0) cuts.push_back(&job.cut);
  }
  params.allRows = 0;
  for (int j = 0; j < params.rowJobs; ++j) {
    params.rows[j].before = params.allRows;
    params.allRows += params.rows[j].rows;
  }
  params.rowShare = static_cast<double>(params.allRows) / blocks;
  // A tile is the block's in whose share its middle lies, in ranks of all tiles in order.
  double before = 0, all = 0;
  const auto ranks = [](const PanelJob& job) {
    return static_cast<double>((job.width + kTileLines - 1) / kTileLines) * job.rank;
  };
  for (int j = 0; j < params.panelJobs; ++j) all += ranks(params.panels[j]);
  for (int j = 0; j < params.panelJobs; ++j) {
    PanelJob& job = params.panels[j];
    if (job.rank == 0) continue;
    job.share = all / blocks / job.rank;
    job.before = before / job.rank + 0.5;
    before += ranks(job);
  }
  const int sumBytes = params.columns * static_cast<int>(sizeof(float));
  // All that is kept of every slice, of one tile.
  const int leastSums = kTileLines * sumsKept(2) * kMostSlices * sumBytes;
  const int sums = std::max(leastSums, std::min(kSumsBudget * params.columns, sharedBytes / 4));
  const int budget = std::min(inputsBudget(params.columns), sharedBytes - kFixed - sums);
  int wanted = 0, least = 0;
  for (const Cut* cut : cuts) {
    // Two strips: of an even number of them, at which chains begin anew.
    least = std::max(least, std::min(2, cut->longest) * kGroups << cut->bits);
    wanted = std::max(wanted, cut->longest * kGroups << cut->bits);
  }
  const auto bytesOf = [&](int groups) {
    return inputWords<kType>(params.columns, groups) * static_cast<int>(sizeof(Word4));
  };
  params.xGroups = wanted;
  while (params.xGroups > least && bytesOf(params.xGroups) > budget) params.xGroups -= kGroups;
  if (bytesOf(params.xGroups) > budget) return 0;
  int most = 0;
  for (Cut* cut : cuts) {
    const int fit = (params.xGroups / kGroups) >> cut->bits;
    cut->atOnce = fit < cut->longest ? fit / 2 * 2 : cut->longest;
    cut->passes = (cut->longest + cut->atOnce - 1) / cut->atOnce;
    const int lineBytes = sumsKept(cut->passes) * sumBytes << cut->bits;
    cut->lines = sums / lineBytes / kTileLines * kTileLines;
    most = std::max(most, cut->lines * lineBytes);
  }
  return static_cast<size_t>(kFixed + bytesOf(params.xGroups) + most);
}

bool whole(const LinearsParams& params) {
  if (params.rowJobs > 0 && params.rowCut.passes > 1) return false;
  for (int j = 0; j < params.panelJobs; ++j) {
    if (params.panels[j].cut.passes > 1) return false;
  }
  return true;
}

// False where so many columns are too many for one launch.
template <Dtype kType, bool kBulk>
bool launchOf(Stream stream, LinearsParams params, const LinearsLaunch& how) {
  if (params.columns > kMostColumns) return false;
  LaunchShape shape;
  shape.sharedBytes = cutLines<kType, kBulk>(params, how.blocks, how.sharedBytes);
  shape.fitted = true;
  if (shape.sharedBytes == 0) return false;
  params.aheadBytes = how.aheadBytes;
  shape.gridX = static_cast<unsigned>(how.blocks);
  shape.threads = kThreads;
  shape.cooperative = params.panelJobs > 0 || params.gatherJobs > 0;
  shape.dependent = how.dependent;
  if (whole(params)) {
    launch(stream, shape, linearsKernel<kType, kBulk, true>, params);
  } else {
    launch(stream, shape, linearsKernel<kType, kBulk, false>, params);
  }
  return true;
}

bool launchOf(Stream stream, Dtype dtype, const LinearsParams& params, const LinearsLaunch& how) {
  switch (dtype) {
    case Dtype::bf16:
      return how.bulk ? launchOf<Dtype::bf16, true>(stream, params, how)
                      : launchOf<Dtype::bf16, false>(stream, params, how);
    case Dtype::int8:
      return launchOf<Dtype::int8, false>(stream, params, how);
    case Dtype::int4:
      return launchOf<Dtype::int4, false>(stream, params, how);
    case Dtype::f32:
      break;
  }
  throw std::invalid_argument(
      "f32 weights are not for the GPU: they are narrowed to bf16 when a model is loaded");
}

// The columns from `first` on.
LinearsParams columnsFrom(const LinearsParams& all, int first, int count) {
  LinearsParams part = all;
  part.columns = count;
  part.x = all.x + static_cast<int64_t>(first) * all.inputs;
  const auto move = [first](auto& job) {
    if (job.y != nullptr) job.y = job.y + static_cast<int64_t>(first) * job.outputs;
  };
  for (int j = 0; j < part.rowJobs; ++j) move(part.rows[j]);
  for (int j = 0; j < part.panelJobs; ++j) move(part.panels[j]);
  for (int j = 0; j < part.gatherJobs; ++j) move(part.gathers[j]);
  return part;
}

}  // namespace
}  // namespace linears

void launchLinears(Stream stream, Dtype dtype, const LinearsParams& params, const LinearsLaunch& how) {
  if (linears::launchOf(stream, dtype, params, how)) return;
  if (params.columns == 1) throw std::invalid_argument("too little shared memory for a column");
  // Reading the weights again costs less than inputs that do not fit.
  const int half = (params.columns + 1) / 2;
  launchLinears(stream, dtype, linears::columnsFrom(params, 0, half), how);
  launchLinears(stream, dtype, linears::columnsFrom(params, half, params.columns - half), how);
}

void launchGather(Stream stream, const GatherParams& params) {
  LaunchShape shape;
  shape.gridX =
      static_cast<unsigned>((params.job.outputs * params.columns + linears::kThreads - 1) / linears::kThreads);
  shape.threads = linears::kThreads;
  launch(stream, shape, linears::gatherKernel, params);
}

}  // namespace flrc::gpu
