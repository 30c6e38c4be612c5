#pragma once

#include <cstdint>
#include <vector>

namespace flrc::cpu {

struct Kernels;

// The columns of a prompt, rounded to bf16, in the form in which kernels read them: kPromptTile columns side by
// side, the last tile with the rest, and in a tile kPromptPairs words of two inputs of each column after one
// another: [tile][block of words][column of the tile][word], with zeros behind a column's last input. A
// column's form does not depend on the others.
struct PromptInputs {
  int64_t columns = 0;
  int64_t pairs = 0;   // words of a column that are in use
  int64_t stride = 0;  // words of a column, whole blocks
  std::vector<uint32_t> words;

  int64_t tiles() const;
  // Columns of a tile.
  int64_t width(int64_t tile) const;
  uint32_t* tile(int64_t tile);
  const uint32_t* tile(int64_t tile) const;
};

inline constexpr int64_t kPromptTile = 12, kPromptPairs = 16;

// Makes room for `inputs` values of each column.
void resize(PromptInputs& prompt, int64_t columns, int64_t inputs);

// Sets one column from its inputs; the columns of a prompt may be set by several threads.
void setPromptColumn(const Kernels& kernels, const float* x, int64_t inputs, int64_t column,
                     PromptInputs& prompt);

// Sets one tile from x [columns][ldx]; the tiles of a prompt may be set by several threads.
void setPromptTile(const Kernels& kernels, const float* x, int64_t ldx, int64_t inputs, int64_t tile,
                   PromptInputs& prompt);

}  // namespace flrc::cpu
