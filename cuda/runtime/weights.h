#pragma once

#include <memory>
#include <vector>

#include "backend.h"
#include "kernels/linears.h"
#include "runtime/memory.h"

namespace flrc::gpu {

// A model's weights on the device (kernels/layout.h), and what is known of it on the host.

struct RowWeights {  // BackendRows
  int64_t rows = 0, cols = 0;
  Dtype dtype = Dtype::bf16;
  Buffer<uint8_t> data;

  RowWeights() = default;
  explicit RowWeights(const BackendRows& from);
};

struct PanelWeights {  // BackendPanels
  int64_t outputs = 0, rank = 0;
  Dtype dtype = Dtype::bf16;
  Buffer<uint8_t> data, zero;
  Buffer<uint16_t> scale;

  PanelWeights() = default;
  explicit PanelWeights(const BackendPanels& from);
};

// Weights from one line to the next.
inline int64_t lineWeights(Dtype dtype, int64_t weights) {
  return stripsOf(dtype, weights) * stripWeights(dtype);
}

struct BlockWeights {
  RowWeights p;
  PanelWeights c;
  // Pivoted: the outputs that t and u are, and where each output lies in (t, u).
  Buffer<int32_t> pivot, rest, gather;
  std::vector<int32_t> others;  // rest, on the host

  explicit BlockWeights(const BackendBlock& from);
  int64_t rank() const { return p.rows; }
};

struct LinearWeights {
  int64_t outputs = 0, inputs = 0;
  bool factored = false, pivoted = false;
  RowWeights dense;
  std::vector<BlockWeights> blocks;
  Buffer<float> bias;

  LinearWeights() = default;
  explicit LinearWeights(const BackendLinear& from);
  Dtype dtype() const { return blocks.empty() ? dense.dtype : blocks.front().p.dtype; }
  // Blocks that make up a rank of pivoted storage.
  int64_t blocksFor(int64_t rank) const;
};

// Of a layer, in the contract's order.
enum : int { kQ, kK, kV, kO, kGate, kUp, kDown };

struct LayerWeights {
  Buffer<float> attentionNorm, mlpNorm, queryNorm, keyNorm, attentionOutputNorm, mlpOutputNorm;
  int64_t window = 0;
  int32_t rope = -1;
  LinearWeights projections[kBackendProjections];

  // Channels of its MLP.
  int64_t intermediate() const { return projections[kGate].outputs; }
};

// Bytes of all of it, before any is allocated.
uint64_t bytesOf(const BackendModel& model);
// What of a model the kernels do not take, in words; empty where they take all of it.
std::string limitOf(const BackendModel& model);
// The outputs that are not pivots, in order: where u = C t goes.
std::vector<int32_t> restOf(const int32_t* gather, int64_t outputs, int64_t rank);

}  // namespace flrc::gpu
