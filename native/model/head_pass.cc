#include "model/head_pass.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "cpu/kernels.h"
#include "linalg/bf16_gemm.h"
#include "linalg/gemm.h"
#include "model/layer_pass.h"
#include "model/sampler.h"

namespace flrc {
namespace {

// Rows of lm_head that stay in a core's cache between widening and their product.
constexpr int64_t kBand = 256;

// body(first, count, weights) over all rows of the matrix, `weights` transposed, [cols, count] in f32.
template <typename Body>
void eachBand(const RowMatrix& matrix, std::vector<float>& band, const Job& job, const Body& body) {
  band.resize(static_cast<size_t>(kBand * matrix.cols));
  for (int64_t first = 0; first < matrix.rows; first += kBand) {
    job.check();
    const int64_t count = std::min(kBand, matrix.rows - first);
    cpu::kernels().widenRows(matrix, first, first + count, band.data(), count);
    body(first, count, band.data());
  }
}

int32_t draw(const float* probabilities, int64_t vocab, double uniform) {
  double left = uniform;
  int32_t last = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    if (probabilities[i] > 0) last = static_cast<int32_t>(i);
    left -= probabilities[i];
    if (left < 0) return static_cast<int32_t>(i);
  }
  // Rounding may leave a sliver beyond the sum.
  return last;
}

}  // namespace

void headLogits(const RowMatrix& head, const float* normed, int64_t rows, HeadBand& band, const Job& job,
                float* logits) {
  const int64_t d = head.cols, vocab = head.rows;
  eachBand(head, band.weights, job, [&](int64_t begin, int64_t words, const float* weights) {
    if (band.rounds) {
      setRows(weights, words, d, words, band.panels);
      bf16Times(normed, d, rows, band.panels, false, logits + begin, vocab);
      return;
    }
    gemm(false, false, rows, words, d, 1.0f, normed, d, weights, words, 0.0f, logits + begin, vocab);
  });
}

void headBackward(const RowMatrix& head, const float* dLogits, int64_t rows, HeadBand& band, const Job& job,
                  float* dNormed) {
  const int64_t d = head.cols, vocab = head.rows;
  eachBand(head, band.weights, job, [&](int64_t begin, int64_t words, const float* weights) {
    if (band.rounds) {
      setColumns(weights, d, words, band.panels);
      bf16Times(dLogits + begin, vocab, rows, band.panels, begin > 0, dNormed, d);
      return;
    }
    gemm(false, true, rows, d, words, 1.0f, dLogits + begin, vocab, weights, words, begin > 0 ? 1.0f : 0.0f,
         dNormed, d);
  });
}

double HeadPass::loss(const float* x, const int32_t* tokens, int64_t count, const Job& job) const {
  return lossAndGradient(x, tokens, count, Labels::data, 0, 0, job, nullptr);
}

double HeadPass::lossAndGradient(const float* x, const int32_t* tokens, int64_t count, Labels labels,
                                 uint64_t seed, uint64_t firstDraw, const Job& job, float* dx) const {
  const ModelConfig& config = model->config;
  const cpu::Kernels& kernel = cpu::kernels();
  const int64_t d = config.hidden, vocab = config.vocab;
  const std::vector<float>& norm = *model->headNorm;
  std::vector<float> normed(static_cast<size_t>(kHeadPositions * d)),
      logits(static_cast<size_t>(kHeadPositions * vocab));
  std::vector<float> dNormed(dx ? static_cast<size_t>(kHeadPositions * d) : 0);
  HeadBand band;
  band.rounds = dx && rounds;
  double total = 0;
  for (int64_t first = 0; first < count; first += kHeadPositions) {
    job.check();
    const int64_t rows = std::min(kHeadPositions, count - first);
    for (int64_t r = 0; r < rows; ++r) {
      kernel.rmsNorm(x + (first + r) * d, norm.data(), config.eps, d, normed.data() + r * d);
    }
    headLogits(*model->head, normed.data(), rows, band, job, logits.data());
    for (int64_t r = 0; r < rows; ++r) {
      float* row = logits.data() + r * vocab;
      const int64_t position = first + r;
      if (position + 1 == count) {
        std::fill(row, row + vocab, 0.0f);  // nothing follows: no loss, no gradient
        continue;
      }
      const int32_t next = tokens[position + 1];
      const float nextLogit = row[next];
      const float logSum = kernel.softmax(row, vocab, 1.0f);
      const double loss = static_cast<double>(logSum) - nextLogit;
      if (!std::isfinite(loss)) throw notFinite();
      total += loss;
      if (!dx) continue;
      const int32_t label =
          labels == Labels::data
              ? next
              : draw(row, vocab, randomUniform(seed, firstDraw + static_cast<uint64_t>(position)));
      row[label] -= 1.0f;
    }
    if (!dx) continue;
    headBackward(*model->head, logits.data(), rows, band, job, dNormed.data());
    rmsNormBackward(x + first * d, norm.data(), config.eps, rows, d, dNormed.data(), false, dx + first * d);
  }
  return total;
}

}  // namespace flrc
