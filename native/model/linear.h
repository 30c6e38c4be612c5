#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cpu/prompt_inputs.h"
#include "cpu/row_inputs.h"
#include "model/decode_linear.h"
#include "tensor/matrix.h"

namespace flrc {

// Ranks of one projection stored together. Pivoted: y[pivot] = t, y[rest] = C t with t = P x, where `p` is
// P [s, n] and `c` holds C for the m - s other outputs. Plain: t = V x, y = U t, where `p` is V and `c` is U
// over all m outputs, and any prefix of the ranks may be used.
struct FactorBlock {
  RowMatrix p;
  PanelMatrix c;
  std::vector<int32_t> pivot;   // [s], rising; empty for plain factors
  std::vector<int32_t> gather;  // [m]: where output o lies in (t, u), u = C t; empty for plain factors
  std::vector<uint32_t> taken;  // [m / 32]: bit o % 32 of word o / 32 says that output o is a pivot
  std::vector<int32_t>
      panelOutput;  // [panels of c]: the output that a panel's u begins with, but 0 of the first

  int64_t rank() const { return p.rows; }
  size_t bytes() const { return p.bytes() + c.bytes() + pivot.size() * sizeof(int32_t); }
};

// Fills `gather`, `taken` and `panelOutput` from `pivot` for m outputs; E_MODEL_FORMAT unless pivots are rising
// and inside [0, m).
void finishBlock(FactorBlock& block, int64_t outputs);

// y[o] = latent[gather[o]] for outputs [begin, end) of a pivoted block, its part of one token's result from t
// with u behind it, or added to y.
void gatherBlock(const FactorBlock& block, int64_t begin, int64_t end, const float* latent, bool adds,
                 float* y);

// The transpose of gatherBlock: from the gradient of one token's result, those at t and at u, overwritten.
void scatterGathered(const FactorBlock& block, const float* dy, float* dt, float* du);

// One projection y = W x (+ bias), dense or factored. Immutable once built, shared between models.
struct Linear {
  int64_t outputs = 0;                                     // m
  int64_t inputs = 0;                                      // n
  std::shared_ptr<const RowMatrix> dense;                  // [m, n]; null when factored
  std::vector<std::shared_ptr<const FactorBlock>> blocks;  // lowest level first
  bool pivoted = true;
  std::vector<float> bias;  // [m] or empty

  bool factored() const { return dense == nullptr; }
  int64_t storedRank() const;
  // Blocks that make up rank r of pivoted storage; plain storage always has one.
  int64_t blocksFor(int64_t rank) const;
  // Block parameters read at this rank (rank is ignored when dense).
  int64_t parameters(int64_t rank) const;
  size_t weightBytes(int64_t rank) const;
};

// Working memory of applyLinears, kept by the session so that decoding allocates nothing.
struct LinearScratch {
  // [columns][width]: t of every block of every call and, where it is pivoted, u behind it, so that gathering
  // is one look-up.
  std::vector<float> latent;
  int64_t width = 0;
  std::vector<std::vector<int64_t>> places;                  // [call][block], where t begins
  std::array<cpu::RowInputs, kDtypes> inputs;                // x in the form that weights of each type want
  cpu::PromptInputs prompt;                                  // x of a prompt
  std::vector<std::vector<cpu::PromptInputs>> promptLatent;  // [call][block], t of a prompt
  struct Task {
    int32_t linear, block;
    int64_t begin, end;
  };
  std::vector<Task> tasks;
  DecodeScratch decode;
};

struct LinearCall {
  const Linear* linear;
  int64_t rank;  // the level's rank; ignored when dense
  float* y;      // [columns, outputs]

  // Ranks of a block that count.
  int64_t activeRank(const FactorBlock& block) const {
    return linear->pivoted ? block.rank() : std::min(rank, block.rank());
  }
};

// y[o] = bias[o] + sum over blocks of (t, u)[gather[o]] for outputs [begin, end) of one token. `places` is what
// LinearScratch has of this call, `latent` is of this token. Dense weights and plain factors, whose products
// are in y already, have their bias added alone.
void gatherOutputs(const LinearCall& call, const std::vector<int64_t>& places, const float* latent,
                   int64_t begin, int64_t end, float* y);

// y = W x for several projections of the same input x [columns, n] (q/k/v, gate/up). Up to 16 columns go
// through the decode kernels, where a column's result is bitwise the same in any batch, split and thread
// count. More columns, a prompt, have their inputs rounded to bf16 where the processor multiplies that and the
// weights are not f32, and do not depend on each other either; elsewhere they go through tiles of dequantised
// weights and sgemm. `next`: the calls that will follow, if they are known, whose weights are then asked for
// while threads wait.
void applyLinears(const LinearCall* calls, int count, const float* x, int64_t columns, int threads,
                  LinearScratch& scratch, std::span<const LinearCall> next = {});

}  // namespace flrc
