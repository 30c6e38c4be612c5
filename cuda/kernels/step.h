#pragma once

#include "kernels/attention.h"
#include "kernels/device.cuh"

namespace flrc::gpu {

// A whole decode step of one token in one launch, on sm_90 and newer: a block on every
// multiprocessor goes through its list of jobs. Their results are values that carry the number of the exchange
// in which they are sent (sendTagged), and whoever needs them waits for that number, so that no barrier of the
// grid and no launch stands between one product and the next. Weights depend on nothing: a block has those of
// the jobs to come on their way while it waits.
//
// Results are those of the single launches (linears.h, decode.h, attention.h) bit for bit.

// Exchanges are counted through a step from 1 on, and steps from where the one before ended: no number is used
// twice for one buffer.
struct StepTags {
  int t = 0, y = 0;  // sent with, by where results go
};

enum class StepKind : int32_t {
  product,  // lines times an input
  expect,   // outputs that are gathered from the products that come next
  gather,   // puts them together
  attend,   // to chunks of the positions
  merge,    // of the chunks' results
};

enum class StepSource : int32_t {
  tagged,  // from
  normed,  // the residual stream, to which `from` is added before (null: nothing), normalised
};

// Products that outputs are gathered from, at most.
inline constexpr int kGathered = 16;

// What one block does at a time. Lines are a block's share of a matrix's.
struct alignas(16) StepJob {
  StepKind kind;
  StepSource source;
  int32_t begin, end;  // product: lines. Expect and gather: outputs
  int32_t width;       // product: values of the input. Attention: AttentionParams::window
  int32_t wants;       // exchange in which the input is sent
  StepTags sends;
  // Product: a number that jobs which follow each other share where they have one input; strips of a line,
  // used; 1 << bits slices of it.
  int32_t input, strips, bits;
  Dtype dtype;  // of its weights
  // Product of panels of int8 or int4 (layout.h): every unit of outputs has an input of its own, of so many
  // words of 16 bytes, for it is in it what ranks are scaled by. 0: all lines have one input.
  int32_t unitWords, storedRank;
  // Product: which of those that outputs are gathered from next, for whom its results stay where they are; else
  // -1. Attention: which layer.
  int32_t which;
  // Product that is gathered from: outputs that are not lines of it but values of its input.
  int32_t pivots;
  // Gather: how many products, and the first of them that make up one side. Where it is gated, silu of that
  // side times the other.
  int32_t products, gates, gated;
  Global<const uint64_t> from;
  Global<const float> norm, keyNorm;  // normed: [width]. Attention: of the queries, and of the keys; or null
  Global<uint64_t> t;                 // results line by line, or null
  Global<uint64_t> y;                 // results by output, or null
  Global<float> plain;                // the same without tags, for whom the next launch is
  // Which output each line is; of products that are gathered from, where among pivots and lines each output is.
  // Null: its own number.
  Global<const int32_t> places;
  Global<const float> bias, gatedBias;  // by output, or null
  Global<const uint16_t> scale;         // of panels, and
  Global<const uint8_t> zero;           // int4's
};

// Where the lines of a block's products are, in the order of its jobs, without those that have none.
struct StepLines {
  Global<const uint8_t> data;
  int32_t lineBytes, headBytes;  // from one line to the next, and before its weights
  int32_t begin, end, unitWords;
  // Small, for they are kept in registers. scaleBytes: that a strip is scaled by, in the head; or 0.
  uint16_t strips;
  uint8_t bits, scaleBytes;
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
  Global<const int32_t> firstJobs, firstLines;  // of each block, and after the last's
  StepAttention attention;
  int32_t exchanges;      // in all
  Global<const float> x;  // [hidden], the token's row of the embedding
  int32_t hidden, headDim;
  float eps;
  int32_t gathered;  // outputs that a block gathers at once, at most, times the products
  // The number of the last exchange, by block: zeros before the first launch.
  Global<uint32_t> epochs;
  // Filled by launchStep.
  int32_t inputWords;  // of 16 bytes, that there is room for
  int32_t ringBytes;   // of weights under way to a warp
};

struct StepLaunch {
  int blocks;       // as many as there are multiprocessors; all run at once
  int sharedBytes;  // that a block can have
  // May begin before the launch ahead is complete (LinearsLaunch::dependent).
  bool dependent = false;
};

// Words of 16 bytes that an input of so many values takes; and one of a unit of panels, 0 where units have none
// of their own.
int stepInputWords(int64_t width);
int stepUnitWords(Dtype dtype, int64_t width);
// Whether inputs of up to so many words, heads of headDim and StepParams::gathered fit.
bool stepFits(int inputWords, int hidden, int headDim, int gathered, const StepLaunch& how);
void launchStep(Stream stream, const StepParams& params, int inputWords, const StepLaunch& how);

}  // namespace flrc::gpu
