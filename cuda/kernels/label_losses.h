#pragma once

// Losses of rows of logits and their gradients (native/model/head_pass.h has the CPU's).

#include "kernels/device.cuh"

namespace flrc::gpu {

// losses[r] = -log softmax(logits[r])[next[r]] in fp64, and total += their sum, in a fixed order; neither is
// finite where a row's logits are such that its loss is not. With `gradient`, logits become softmax(logits) -
// onehot(label): the label is next[r], or, where it is `drawn`, what draw firstDraw + r of `seed`
// (core/random.h) finds in the row's own distribution, by the CPU's rule: the first token up to which the
// probabilities add up to more than the draw. A row whose next is below 0 has nothing that follows it: a loss
// of 0, and with `gradient` it becomes zeros.
struct LabelLossParams {
  Global<float> logits;  // [rows][vocab], at 16 bytes
  int rows, vocab;
  Global<const int32_t> next;  // [rows]
  bool gradient, drawn;
  uint64_t seed, firstDraw;
  Global<double> losses;  // [rows]
  Global<double> total;   // [1]
};
void launchLabelLosses(Stream stream, const LabelLossParams& params);

}  // namespace flrc::gpu
