#pragma once

#include <cstdint>
#include <vector>

#include "core/job.h"
#include "cpu/bf16_panels.h"
#include "model/model.h"

namespace flrc {

// Whose labels the losses are taken against: the text's own next token, or one drawn from the model's own
// distribution at every position (the true Fisher information).
enum class Labels { data, model };

// Positions whose logits a pass holds at once, [kHeadPositions, vocab] in f32.
constexpr int64_t kHeadPositions = 256;

// logits [rows, vocab] = normed [rows, hidden] lm_head^T, and back: dNormed [rows, hidden] = dLogits lm_head;
// at most kHeadPositions rows, on the calling thread. Rows of lm_head are widened to f32 a band at a time: of a
// vocabulary of 128k they would be gigabytes. Where a band `rounds`, both factors are rounded to bf16.
struct HeadBand {
  bool rounds = false;
  std::vector<float> weights;  // working memory
  cpu::Bf16Panels panels;      // likewise
};
void headLogits(const RowMatrix& head, const float* normed, int64_t rows, HeadBand& band, const Job& job,
                float* logits);
void headBackward(const RowMatrix& head, const float* dLogits, int64_t rows, HeadBand& band, const Job& job,
                  float* dNormed);

// Final norm and lm_head over one sequence.
struct HeadPass {
  const Model* model = nullptr;
  bool rounds = false;  // whether gradients are made by products in bf16

  explicit HeadPass(const Model& of) : model(&of) {}

  // Sum over positions 0..tokens-2 of -log p(next token), nats, from hidden states x [tokens, hidden].
  // E_NUMERIC if a logit is not finite.
  double loss(const float* x, const int32_t* tokens, int64_t count, const Job& job) const;

  // The same sum, and dx [tokens, hidden], the gradient of the summed loss against `labels`. Draw i of `seed`
  // labels position i - firstDraw.
  double lossAndGradient(const float* x, const int32_t* tokens, int64_t count, Labels labels, uint64_t seed,
                         uint64_t firstDraw, const Job& job, float* dx) const;
};

}  // namespace flrc
