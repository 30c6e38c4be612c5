#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/shared_run.h"

namespace flrc {

struct LinearCall;
struct LinearScratch;

// A phase of a decode step: what threads may read side by side.
struct DecodePhase {
  // Dense weights or the P of a block (block -1: dense); or the C of all of a call's blocks, which are cut
  // together (block is not used), so that who has multiplied some panels of each can put their outputs
  // together. In `units` of a panel, the first of them `first` in the phase.
  struct Part {
    int32_t call, block;
    int64_t streams;  // of memory: blocks that are cut together
    int64_t first, units, bytes;
  };
  std::vector<Part> parts;
  int64_t units = 0, bytes = 0;

  void clear();
  void add(Part part);  // behind the others
  const Part& partOf(int64_t unit) const;
  // The first unit of share i of n, by bytes.
  int64_t shareBegin(int i, int n) const;
};

// Where weights begin that are read next, and how many bytes of them lie in a row.
struct WeightsAt {
  const uint8_t *data = nullptr, *scale = nullptr, *zero = nullptr;
  int64_t bytes = 0;
};

// Working memory of decodeLinears.
struct DecodeScratch {
  DecodePhase rows, panels, next;
  std::unique_ptr<SharedRun[]> runs;  // of each thread
  int capacity = 0;
  std::vector<WeightsAt> ahead;  // of each thread: what it begins the following phase with
  // [units of panels]: whether the outputs before and behind come from different threads.
  std::vector<uint8_t> seams;
};

// applyLinears for up to cpu::kMaxColumns columns. `next`: the calls that will follow, for their weights to be
// asked for while threads wait.
void decodeLinears(const LinearCall* calls, int count, const float* x, int64_t columns, int threads,
                   std::span<const LinearCall> next, LinearScratch& scratch);

}  // namespace flrc
