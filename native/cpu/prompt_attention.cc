#include "cpu/prompt_attention.h"

#include "tensor/matrix.h"

namespace flrc::cpu {

void resize(PromptAttention& work, int64_t rows, int64_t headDim) {
  const int64_t headPanels = (headDim + kPanel - 1) / kPanel;
  resize(work.queries, rows, headDim);
  work.keys.resize(static_cast<size_t>(kAttentionKeys * work.queries.pairs));
  work.values.resize(static_cast<size_t>(kAttentionKeys / 2 * headPanels * kPanel));
  work.scores.resize(static_cast<size_t>(kPromptTile * kAttentionKeys));
  work.weights.resize(static_cast<size_t>(kPromptTile * kAttentionKeys / 2));
  work.sums.assign(static_cast<size_t>(rows * headDim), 0.0f);
  // Lower than any score, but finite: what is not seen is lower still, and its weight zero.
  constexpr float kLowest = -1e30f;
  work.most.assign(static_cast<size_t>(rows), kLowest);
  work.total.assign(static_cast<size_t>(rows), 0.0f);
}

}  // namespace flrc::cpu
