#pragma once

#include <array>
#include <cstdint>

#include "cpu/bf16_panels.h"
#include "cpu/kv_view.h"
#include "cpu/prompt_attention.h"
#include "cpu/prompt_inputs.h"
#include "cpu/row_inputs.h"
#include "tensor/matrix.h"

namespace flrc::cpu {

// The most columns (tokens) a decode kernel takes at once; a column's result is bitwise the same alone and
// in any batch.
inline constexpr int kMaxColumns = 16;

// Of softmax over logits, in fp64.
struct LogitSums {
  bool finite = true;   // all logits; nothing below is set where not
  int64_t best = 0;     // the first of the largest
  double sum = 0;       // of e^(logit - largest)
  double weighted = 0;  // of e^(logit - largest) * (logit - largest)
};

// Where outputs [begin, end) of a pivoted block lie: output o at `from[o]`, which is below `rank` where bit o %
// 32 of `taken[o / 32]` says so; both parts rise.
struct GatherMap {
  const int32_t* from;
  const uint32_t* taken;
  int64_t rank, begin, end;
};

// Kernels of one instruction set. All activations are f32; `x` has columns at stride ldx. No kernel starts
// threads: callers split rows or panels, and the result does not depend on the split.
struct Kernels {
  const char* target;

  // y[c * ldy + r] = sum_i w[r, i] x[c, i], r in [rowBegin, rowEnd), for the columns that setInputs took for
  // w.dtype.
  void (*rowsTimes)(const RowMatrix& w, int64_t rowBegin, int64_t rowEnd, const RowInputs& x, float* y,
                    int64_t ldy);
  // One column of setInputs, for int8 and int4: `cols` values of x. sum is written for int4 only.
  void (*roundInputs)(const float* x, int64_t cols, Dtype dtype, RoundedGroup* rounded, float* scale,
                      float* sum);

  // y[c * ldy + o] = sum_{j < rank} w[j, o] t[c * ldt + j], for the outputs o of panels [panelBegin, panelEnd),
  // o < w.outputs, and columns <= kMaxColumns. For int8 and int4, t times a rank's scale is rounded to 16 bits
  // in groups of kGroup ranks, for every panel.
  void (*panelsTimes)(const PanelMatrix& w, int64_t panelBegin, int64_t panelEnd, int64_t rank, const float* t,
                      int64_t ldt, int columns, float* y, int64_t ldy);

  // The same products for the columns of a prompt, however many, of weights and inputs rounded to bf16; of
  // weights in bf16, int8 and int4. Null, all to attendPrompt, where the processor does not multiply bf16. A
  // column's result depends neither on the others nor on the split. rowBegin is a panel's first row; t has the
  // inputs of the ranks in use.
  void (*rowsTimesPrompt)(const RowMatrix& w, int64_t rowBegin, int64_t rowEnd, const PromptInputs& x, float* y,
                          int64_t ldy);
  void (*panelsTimesPrompt)(const PanelMatrix& w, int64_t panelBegin, int64_t panelEnd, const PromptInputs& t,
                            float* y, int64_t ldy);
  // `inputs` values of one column as bf16: kPromptPairs words to every `stride` of `words`, zeros at the end.
  void (*roundPrompt)(const float* x, int64_t inputs, int64_t stride, uint32_t* words);
  // One panel of W from f32: from rows of inputs [inputs, outputs], or from their transpose [outputs, inputs].
  void (*setPanelOfRows)(const float* w, int64_t ldw, int64_t panel, Bf16Panels& to);
  void (*setPanelOfColumns)(const float* w, int64_t ldw, int64_t panel, Bf16Panels& to);
  // One tile of a prompt from its transpose, x [inputs, columns].
  void (*roundPromptOfRows)(const float* x, int64_t ldx, int64_t inputs, int64_t tile, PromptInputs& to);
  // As rowsTimesPrompt for whole panels, or added to y.
  void (*bf16PanelsTimes)(const Bf16Panels& w, int64_t panelBegin, int64_t panelEnd, const PromptInputs& x,
                          bool adds, float* y, int64_t ldy);
  // Attention of a prompt's queries, which `work` has, to the keys of a half cache before them: to work.sums
  // what is to be divided by work.total. Queries, keys, weights and values are rounded to bf16. A query's
  // result depends on no other one.
  void (*attendPrompt)(const KvView& cache, int64_t kvHead, const PromptQueries& of, PromptAttention& work);

  // y[o] = latent[map.from[o]] for the map's outputs, or added to y.
  void (*gather)(const GatherMap& map, const float* latent, bool adds, float* y);

  // y[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i]; y may be x.
  void (*rmsNorm)(const float* x, const float* weight, float eps, int64_t n, float* y);
  // By Activation: y[i] = activation(gate[i]) * up[i]; y may be gate or up.
  std::array<void (*)(const float* gate, const float* up, int64_t n, float* y), 2> gatedTimes;
  // dGate and dUp of y = activation(gate) * up, given dy. dGate may be gate, dUp may be up.
  std::array<void (*)(const float* gate, const float* up, const float* dy, int64_t n, float* dGate, float* dUp),
             2>
      gatedTimesBackward;
  // x[i] += y[i]
  void (*add)(const float* y, int64_t n, float* x);
  // In place softmax of n values after multiplying by `scale`; returns log(sum(exp)) of the scaled values.
  float (*softmax)(float* x, int64_t n, float scale);
  LogitSums (*logitSums)(const float* logits, int64_t n);
  // Attention of one token over positions [begin, end) of one key/value head: out [heads, headDim] of the
  // queries q [heads, headDim] that share it. A head's result does not depend on the others. scores: working
  // memory of 4 * (end - begin + 2 * kKeyBlock) floats.
  void (*attend)(const KvView& cache, int64_t kvHead, int64_t begin, int64_t end, const float* q, int64_t heads,
                 float* scores, float* out);
  // Writes a position's key and value [kvHeads, headDim]; what fp16 cannot hold becomes its largest value.
  void (*storeKv)(const KvView& cache, int64_t position, const float* key, const float* value);
  // Of one head as f32: keys [headDim, end - begin] and values [end - begin, headDim].
  void (*widenKv)(const KvView& cache, int64_t kvHead, int64_t begin, int64_t end, float* keys, float* values);
  // sum_i x[i] y[i]
  float (*dot)(const float* x, const float* y, int64_t n);
  // y[i] += a x[i]
  void (*axpy)(float a, const float* x, int64_t n, float* y);
  // sums[0] += sum (g w)^2, sums[1] += sum g^2, sums[2] += sum |g w| over n values, accumulated in fp64.
  void (*fisherReduce)(const float* g, const float* w, int64_t n, double* sums);
  // Rows [rowBegin, rowEnd) of w as f32, transposed: out[c * ld + r - rowBegin]. rowBegin is a panel's first
  // row.
  void (*widenRows)(const RowMatrix& w, int64_t rowBegin, int64_t rowEnd, float* out, int64_t ld);
  // The first ranks of outputs of panels as f32: out[j * ld + o - panelBegin * kPanel], j < rank, o <
  // w.outputs.
  void (*widenPanels)(const PanelMatrix& w, int64_t panelBegin, int64_t panelEnd, int64_t rank, float* out,
                      int64_t ld);
};

// The best kernels this processor runs, found once through cpuid.
const Kernels& kernels();

// Every set this processor runs, best first, for tests and benchmarks.
int kernelTargets(const Kernels** out, int capacity);

}  // namespace flrc::cpu
