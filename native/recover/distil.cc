#include "recover/distil.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "cpu/kernels.h"
#include "model/head_pass.h"
#include "model/layer_pass.h"

namespace flrc {
DistilSums distil(const Model& student, const RowMatrix& teacherHead, const float* x,
                  const float* teacherNormed, const int32_t* tokens, int64_t count, float scale, bool rounds,
                  const Job& job, float* dx) {
  const ModelConfig& config = student.config;
  const cpu::Kernels& kernel = cpu::kernels();
  const int64_t d = config.hidden, vocab = config.vocab, most = std::min(kHeadPositions, count);
  const std::vector<float>& norm = *student.headNorm;
  std::vector<float> normed(static_cast<size_t>(most * d)), dNormed(dx ? normed.size() : 0);
  std::vector<float> mine(static_cast<size_t>(most * vocab)), theirs(mine.size());
  std::vector<float> target(static_cast<size_t>(vocab));
  HeadBand band;
  band.rounds = rounds;
  DistilSums sums;
  for (int64_t first = 0; first < count; first += kHeadPositions) {
    const int64_t rows = std::min(kHeadPositions, count - first);
    for (int64_t r = 0; r < rows; ++r) {
      kernel.rmsNorm(x + (first + r) * d, norm.data(), config.eps, d, normed.data() + r * d);
    }
    headLogits(*student.head, normed.data(), rows, band, job, mine.data());
    headLogits(teacherHead, teacherNormed + first * d, rows, band, job, theirs.data());
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
    headBackward(*student.head, mine.data(), rows, band, job, dNormed.data());
    rmsNormBackward(x + first * d, norm.data(), config.eps, rows, d, dNormed.data(), false, dx + first * d);
  }
  return sums;
}

}  // namespace flrc
