#pragma once

#include <cstdint>
#include <vector>

#include "tensor/dtype.h"

namespace flrc::cpu {

// A matrix of f32 rounded to bf16, in the form in which kernels multiply many columns by it: as a RowMatrix in
// bf16 (tensor/matrix.h), [panel][pair of inputs][output of the panel], but that the last panel is whole too,
// with zeros where outputs and inputs end.
struct Bf16Panels {
  int64_t outputs = 0, inputs = 0;
  std::vector<uint32_t> words;

  int64_t pairs() const { return (inputs + 1) / 2; }
  int64_t panels() const { return (outputs + kPanel - 1) / kPanel; }
  uint32_t* panel(int64_t i) { return words.data() + i * pairs() * kPanel; }
  const uint32_t* panel(int64_t i) const { return words.data() + i * pairs() * kPanel; }
};

// Makes room; every panel is to be set then.
inline void resize(Bf16Panels& panels, int64_t outputs, int64_t inputs) {
  panels.outputs = outputs;
  panels.inputs = inputs;
  panels.words.resize(static_cast<size_t>(panels.panels() * panels.pairs() * kPanel));
}

}  // namespace flrc::cpu
