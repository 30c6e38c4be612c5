#pragma once

#include "kernels/attention.h"
#include "kernels/device.cuh"

namespace flrc::gpu {

// A whole decode step of one token in one launch, for bf16 weights on sm_90 and newer: a block on every
// multiprocessor goes through a list of jobs, all of them through the same one. Each job's results are values
// that carry the number of the exchange in which they are sent (sendTagged), and whoever needs them waits for
// that number, so that no barrier of the grid and no launch stands between one product and the next. Weights
// depend on nothing: a block has those of the jobs to come on their way while it waits.
//
// Results are those of the single launches (linears.h, decode.h, attention.h) bit for bit.

// Exchanges are counted through a step from 1 on, and steps from where the one before ended: no number is used
// twice for one buffer.
struct StepTags {
  int t = 0, y = 0;  // sent with, by where results go
};

enum class StepKind : int32_t {
  product,  // lines times an input
  expect,   // has what a gather goes by on its way, in a block's shared memory
  gather,   // outputs from several products
  attend,   // to chunks of the positions
  merge,    // of the chunks' results
};

enum class StepSource : int32_t {
  tagged,  // from
  normed,  // the residual stream, to which `from` is added before (null: nothing), normalised
};

// The lines of a product, in the order of the jobs that have some.
struct StepLines {
  Global<const uint8_t> data;
  int32_t lineBytes;  // from one line to the next
  int32_t strips;     // of a line, used
  int32_t bits;       // 1 << bits slices of a line
};

struct StepJob {
  StepKind kind;
  // Product: which of the next gather's, for which its results stay where they are; else -1.
  // Expect and gather: which of StepParams::gathers. Attention: which layer.
  int32_t which;
  int32_t input;  // product: a number that jobs which follow each other share where they have one input
  StepSource source;
  int32_t width;  // product: values of the input. Attention: AttentionParams::window
  int32_t wants;  // exchange in which the input is sent
  StepTags sends;
  Global<const uint64_t> from;
  Global<const float> norm, keyNorm;  // normed: [width]. Attention: of the queries, and of the keys; or null
  Global<uint64_t> t;                 // results line by line, or null
  Global<uint64_t> y;                 // results by output, or null
  Global<float> plain;                // the same without tags, for whom the next launch is
  Global<const int32_t> scatter;      // which output each line is; null: its own number
  Global<const float> bias;           // by output, or null
};

// Outputs of a projection in several pivoted blocks (GatherJob of linears.h), or of a gate and of what it
// gates, whose products silu(gate) * up are made. Whoever has some of the outputs has the lines that they need
// of all products.
inline constexpr int kGathered = 16;
struct StepGather {
  Global<uint64_t> y;
  Global<const float> bias, gatedBias;
  Global<const int32_t> shares;  // [blocks of the launch + 1]
  int32_t products, gates;       // in all, and the first ones, which are the gate's where there is one
  int32_t gated;                 // whether there is
  struct Product {
    Global<const int32_t> gather;  // null: each output has a line, in order
    Global<const uint64_t> t;      // sent in exchange StepJob::wants
    int32_t rank;                  // pivots, which lie before the lines
  } product[kGathered];
};

// What attention of all layers has in common; `of` without q, k, v, out and working memory, for these are
// tagged, and without what is a layer's own (StepJob).
struct StepAttention {
  AttentionParams of;
  Global<const uint64_t> q, k, v;
  Global<uint64_t> sums;    // [heads][chunks][headDim]
  Global<uint64_t> scales;  // [heads][chunks][2]
  int32_t chunks;           // that there is room for
  Global<uint64_t> out;
};
// Positions that a step serves: groups of chunks that are merged, and those groups.
inline constexpr int kStepGroups = 8;
inline constexpr int kStepPositions = kStepGroups * kAttentionGroup * kAttentionChunk;

struct StepParams {
  Global<const StepJob> jobs;
  Global<const StepLines> lines;
  Global<const int32_t> shares;  // [lines][blocks + 1]: the first line of each block
  Global<const StepGather> gathers;
  StepAttention attention;
  int32_t jobCount, lineCount;
  int32_t exchanges;      // in all
  Global<const float> x;  // [hidden], the token's row of the embedding
  int32_t hidden, headDim;
  float eps;
  int32_t gathered;  // outputs of a gather that a block has, at most, times the products
  // The number of the last exchange, by block: zeros before the first launch.
  Global<uint32_t> epochs;
  // Filled by launchStep.
  int32_t widest;     // strips of the widest input
  int32_t ringBytes;  // of weights under way to a warp
};

struct StepLaunch {
  int blocks;       // as many as there are multiprocessors; all run at once
  int sharedBytes;  // that a block can have
  // May begin before the launch ahead is complete (LinearsLaunch::dependent).
  bool dependent = false;
};

// Whether inputs of up to `width` values, heads of headDim and StepParams::gathered fit.
bool stepFits(int width, int hidden, int headDim, int gathered, const StepLaunch& how);
void launchStep(Stream stream, const StepParams& params, int width, const StepLaunch& how);

}  // namespace flrc::gpu
