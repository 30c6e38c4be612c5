#include "cpu/prompt_inputs.h"

#include <algorithm>

#include "cpu/kernels.h"

namespace flrc::cpu {

int64_t PromptInputs::tiles() const { return (columns + kPromptTile - 1) / kPromptTile; }

int64_t PromptInputs::width(int64_t tile) const { return std::min(kPromptTile, columns - tile * kPromptTile); }

uint32_t* PromptInputs::tile(int64_t tile) { return words.data() + tile * kPromptTile * stride; }

const uint32_t* PromptInputs::tile(int64_t tile) const { return words.data() + tile * kPromptTile * stride; }

void resize(PromptInputs& prompt, int64_t columns, int64_t inputs) {
  prompt.columns = columns;
  prompt.pairs = (inputs + 1) / 2;
  prompt.stride = (prompt.pairs + kPromptPairs - 1) / kPromptPairs * kPromptPairs;
  prompt.words.resize(static_cast<size_t>(columns * prompt.stride));
}

void setPromptColumn(const Kernels& kernels, const float* x, int64_t inputs, int64_t column,
                     PromptInputs& prompt) {
  const int64_t tile = column / kPromptTile;
  kernels.roundPrompt(x, inputs, prompt.width(tile) * kPromptPairs,
                      prompt.tile(tile) + column % kPromptTile * kPromptPairs);
}

void setPromptTile(const Kernels& kernels, const float* x, int64_t ldx, int64_t inputs, int64_t tile,
                   PromptInputs& prompt) {
  const int64_t first = tile * kPromptTile, end = first + prompt.width(tile);
  for (int64_t c = first; c < end; ++c) setPromptColumn(kernels, x + c * ldx, inputs, c, prompt);
}

}  // namespace flrc::cpu
