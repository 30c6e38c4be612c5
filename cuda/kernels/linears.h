#pragma once

#include "kernels/device.cuh"
#include "kernels/layout.h"

namespace flrc::gpu {

// The most columns (tokens) of one launch; a column's result is bitwise the same alone and in any batch.
inline constexpr int kMaxColumns = 16;
inline constexpr int kMaxProjections = 3;
inline constexpr int kMaxBlocks = 8;
inline constexpr int kMaxJobs = kMaxProjections * kMaxBlocks;
// Blocks of a launch at most, and words of LinearsParams::epochs.
inline constexpr int kMostGrid = 256;
// Where a projection's t lies in a column of t: a multiple of so many values.
inline constexpr int kTAlign = kUnit;
inline constexpr int64_t tWidthOf(int64_t rank) { return (rank + kTAlign - 1) / kTAlign * kTAlign; }

// How lines are multiplied; filled by launchLinears.
struct Cut {
  int strips, lineStrips;  // of a line, used, and from one line to the next
  int headStrips;          // before a row's weights
  int bits;                // 1 << bits slices of a line
  int longest;             // strips of the longest slice
  int atOnce;              // strips of each slice whose inputs are in shared memory together
  int passes;              // that this takes
  int lines;               // at a time
};

// Rows that x is multiplied by: a dense projection's, whose results are outputs, or a block's P or V, whose
// results are t.
struct RowJob {
  Global<const uint8_t> data;
  int rows;
  int t;                          // where its results lie in a column of t; -1: they are outputs only
  Global<float> y;                // null: they are in t only
  Global<const int32_t> scatter;  // which output each row is; null: the row's own number
  Global<const float> bias;       // [outputs] or null
  int outputs;                    // from one column of y to the next
  int before;                     // rows of the jobs before; filled by launchLinears
};

// Outputs that a block's t is multiplied for: its U or C.
struct PanelJob {
  Global<const uint8_t> data;
  Global<const uint16_t> scale;
  Global<const uint8_t> zero;
  int width;             // how many
  int rank, storedRank;  // ranks used, and ranks that a line holds
  Cut cut;               // filled by launchLinears, as are the next
  // Block b has the tiles from the least whole number that is at least b * share - before.
  double share, before;
  int t;            // where its inputs lie in a column of t
  int u;            // where its results lie in a column of u; -1: they are outputs
  Global<float> y;  // for u < 0
  Global<const int32_t> scatter;
  Global<const float> bias;
  int outputs;
};

// A projection in several pivoted blocks: y[o] = bias[o] + sum over blocks of (t, u)[gather[o]].
struct GatherJob {
  Global<float> y;
  Global<const float> bias;
  int outputs;
  int blocks;
  Global<const int32_t> gather[kMaxBlocks];  // [outputs] each
  int rank[kMaxBlocks], t[kMaxBlocks], u[kMaxBlocks];
};

// y = W x for projections of one input, dense, of plain factors or of pivoted blocks, in one launch
// (model/linear.h has the CPU's). All weights have one dtype, all activations are f32.
struct LinearsParams {
  Global<const float> x;  // [columns][inputs]
  int columns, inputs;
  int rowJobs, panelJobs, gatherJobs;
  RowJob rows[kMaxJobs];
  PanelJob panels[kMaxJobs];
  GatherJob gathers[kMaxProjections];
  // Working memory: [columns][tWidth], [columns][uWidth]; zeros before the first launch. A value's bits and,
  // above them, the number of the launch that it is of. tWidth is a multiple of kTAlign.
  Global<uint64_t> t, u;
  int tWidth, uWidth;
  // Launches so far, once for every block there can be: zeros before the first launch, left to the kernel after
  // that. Launches that share t, u and this follow one another in one stream.
  Global<uint32_t> epochs;
  // Filled by launchLinears.
  Cut rowCut;
  double rowShare;  // rows of all jobs for each block
  int allRows, xGroups, aheadBytes;
};

struct LinearsLaunch {
  int blocks;         // at most one a multiprocessor: they wait for each other
  int sharedBytes;    // that a block can have
  bool bulk = false;  // weights come by bulk copies (sm_90 and newer)
  // Bytes of its weights that a block has the L2 cache fetch before the input is there (sm_90 and newer).
  int aheadBytes = 0;
  // May begin before the launch ahead is complete. Blocks are then not launched together as a cooperative
  // launch's are, so that two such launches at once, of two streams, could each keep the other from being
  // complete: use one stream.
  bool dependent = false;
};

void launchLinears(Stream stream, Dtype dtype, const LinearsParams& params, const LinearsLaunch& how);

// The outputs of a projection from t and u that other launches have made, [columns][tWidth] and
// [columns][uWidth].
struct GatherParams {
  GatherJob job;
  int columns;
  Global<const float> t, u;
  int tWidth, uWidth;
};
void launchGather(Stream stream, const GatherParams& params);

}  // namespace flrc::gpu
