#pragma once

#include <cstdint>

#include "model/model.h"

namespace flrc {

// Which moments a calibration sums: of inputs, of output gradients; and whether it keeps those of the inputs.
struct MomentKinds {
  bool inputs = true, gradients = true, kept = false, shrunk = false;
};

// How much of one layer's work goes on at once, so that it fits the memory given. Results do not
// depend on it.
struct LayerLimits {
  int sequences = 1;        // passes at once
  int projections = 1;      // factorised at once
  bool oneInput = false;    // moments and factors of one input's projections at a time: q k v, o, gate up, down
  bool shareMemory = true;  // false: a phase's buffers are freed before the next begins
  int64_t stores = 0;       // bytes left for boundaries, activations and finished factors; the rest spills
};

// What fits `memory` bytes beside the model's weights: everything at once if it can, otherwise as many
// sequences and projections as can, one of each at least. `longest`: tokens of the longest sequence.
LayerLimits layerLimits(const ModelConfig& config, MomentKinds kinds, int64_t longest, int threads,
                        int64_t memory);

// What a calibration holds beside the model's weights, in bytes.
struct MemoryNeeds {
  int64_t least = 0;       // one thing after another, all that can spill on the disk
  int64_t everything = 0;  // as much at once as there are threads, nothing spilled; more is of no use
};

MemoryNeeds memoryNeeds(const ModelConfig& config, MomentKinds kinds, int64_t sequences, int64_t longest,
                        int threads);

// The same for ranking the channels of MLPs, which is done a layer at a time.
LayerLimits channelLimits(const ModelConfig& config, int64_t longest, int threads, int64_t memory);
MemoryNeeds channelMemoryNeeds(const ModelConfig& config, int64_t sequences, int64_t longest, int threads);

// Bytes that factorising a W [m, n] holds at its peak, its result included.
int64_t factorBytes(int64_t m, int64_t n);

// Bytes that cutting a W [m, n] of all-rank factors to a pivoted block of `rank` ranks holds at its peak.
int64_t pivotBytes(int64_t m, int64_t n, int64_t rank);

}  // namespace flrc
