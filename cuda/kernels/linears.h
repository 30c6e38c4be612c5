#pragma once

#include "kernels/device.cuh"
#include "kernels/layout.h"

namespace flrc::gpu {

// The most columns (tokens) of one launch; a column's result is bitwise the same alone and in any batch.
inline constexpr int kMaxColumns = 16;
inline constexpr int kMaxProjections = 3;
inline constexpr int kMaxBlocks = 8;
inline constexpr int kMaxJobs = kMaxProjections * kMaxBlocks;

// Rows that x is multiplied by: a dense projection's, whose results are outputs, or a block's P or V, whose
// results are t.
struct RowJob {
  Global<const uint8_t> data;
  Global<const uint16_t> scale;
  Global<const uint8_t> zero;
  int rows;
  int t;                          // where its results lie in a column of t; -1: they are outputs only
  Global<float> y;                // null: they are in t only
  Global<const int32_t> scatter;  // which output each row is; null: the row's own number
  Global<const float> bias;       // [outputs] or null
  int outputs;                    // from one column of y to the next
};

// Units of outputs that a block's t is multiplied by: its U or C.
struct PanelJob {
  Global<const uint8_t> data;
  Global<const uint16_t> scale;
  Global<const uint8_t> zero;
  int width;             // outputs in these units
  int rank, storedRank;  // ranks used, and ranks that a unit holds
  int t;                 // where its inputs lie in a column of t
  int u;                 // where its results lie in a column of u; -1: they are outputs
  Global<float> y;       // for u < 0
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
  int stride;  // of the rows: inputs in whole groups
  int rowJobs, panelJobs, gatherJobs;
  RowJob rows[kMaxJobs];
  PanelJob panels[kMaxJobs];
  GatherJob gathers[kMaxProjections];
  Global<float> t, u;  // working memory: [columns][tWidth], [columns][uWidth]
  int tWidth, uWidth;
  Global<uint32_t> counter;  // of the grid's barrier: 0 before the first launch, left to the kernel after that
  // Filled by launchLinears.
  int xFloats, stagedRowBytes, stagedPanelBytes, aheadBytes;
};

struct LinearsLaunch {
  int blocks;           // at most one a multiprocessor: they wait for each other
  int stagedBytes = 0;  // of shared memory, for weights that are fetched before the input is there
  bool bulk = false;    // fetched by bulk copies (sm_90 and newer)
  // May begin before the launch ahead is complete. Blocks are then not launched together as a cooperative
  // launch's are, so that two such launches at once, of two streams, could each keep the other from being
  // complete: use one stream.
  bool dependent = false;
  int aheadBytes = 0;  // of what comes after those, which the L2 cache is told to fetch (with bulk copies only)
};

void launchLinears(Stream stream, Dtype dtype, const LinearsParams& params, const LinearsLaunch& how);

}  // namespace flrc::gpu
