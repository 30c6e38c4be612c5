#include "recover/distil.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "cpu/kernels.h"
#include "linalg/gemm.h"
#include "model/layer_pass.h"

namespace flrc {
namespace {

// Positions whose logits are held at once, twice; every chunk packs both heads again.
constexpr int64_t kChunk = 256;

}  // namespace

DistilSums distil(const HeadPass& student, const std::vector<float>& teacherWeights, const float* x,
                  const float* teacherNormed, const int32_t* tokens, int64_t count, float scale, const Job& job,
                  float* dx) {
  const ModelConfig& config = student.model->config;
  const cpu::Kernels& kernel = cpu::kernels();
  const int64_t d = config.hidden, vocab = config.vocab, most = std::min(kChunk, count);
  const std::vector<float>& norm = *student.model->finalNorm;
  std::vector<float> normed(static_cast<size_t>(most * d)), dNormed(dx ? normed.size() : 0);
  std::vector<float> mine(static_cast<size_t>(most * vocab)), theirs(mine.size());
  std::vector<float> target(static_cast<size_t>(vocab));
  DistilSums sums;
  for (int64_t first = 0; first < count; first += kChunk) {
    const int64_t rows = std::min(kChunk, count - first);
    for (int64_t r = 0; r < rows; ++r) {
      kernel.rmsNorm(x + (first + r) * d, norm.data(), config.eps, d, normed.data() + r * d);
    }
    job.check();
    gemm(false, true, rows, vocab, d, 1.0f, normed.data(), d, student.weights.data(), d, 0.0f, mine.data(),
         vocab);
    job.check();
    gemm(false, true, rows, vocab, d, 1.0f, teacherNormed + first * d, d, teacherWeights.data(), d, 0.0f,
         theirs.data(), vocab);
    for (int64_t r = 0; r < rows; ++r) {
      float *q = mine.data() + r * vocab, *difference = theirs.data() + r * vocab;
      const int64_t next = first + r + 1;
      const float nextLogit = next < count ? q[tokens[next]] : 0.0f;
      // KL = sum p (teacher's logit - student's) - (log of the teacher's sum of exp - log of the student's)
      std::copy(difference, difference + vocab, target.data());
      const float theirSum = kernel.softmax(target.data(), vocab, 1.0f);
      kernel.axpy(-1.0f, q, vocab, difference);
      const double cross = kernel.dot(target.data(), difference, vocab);
      const float mySum = kernel.softmax(q, vocab, 1.0f);
      const double kl = cross - (static_cast<double>(theirSum) - mySum);
      if (!std::isfinite(kl)) {
        throw Error(code::numeric,
                    "a logit is not finite; the model's weights overflow in this dtype, try f32");
      }
      sums.kl += kl;
      if (next < count) sums.loss += static_cast<double>(mySum) - nextLogit;
      if (!dx) continue;
      for (int64_t i = 0; i < vocab; ++i) q[i] = (q[i] - target[static_cast<size_t>(i)]) * scale;
    }
    if (!dx) continue;
    job.check();
    gemm(false, false, rows, d, vocab, 1.0f, mine.data(), vocab, student.weights.data(), d, 0.0f,
         dNormed.data(), d);
    rmsNormBackward(x + first * d, norm.data(), config.eps, rows, d, dNormed.data(), false, dx + first * d);
  }
  return sums;
}

}  // namespace flrc
