#pragma once

#include <cstdint>

#include "core/job.h"
#include "model/model.h"

namespace flrc {

struct DistilSums {
  double kl = 0;    // sum over all positions of KL(teacher || student), nats
  double loss = 0;  // sum over all positions but the last of -log p(next token) under the student, nats
};

// The student's hidden states x and the teacher's, after its final norm, [count, hidden] each, through their
// heads. With dx [count, hidden]: the gradient of kl times `scale`. Where it `rounds`, products with the heads
// are of bf16. E_NUMERIC if a logit is not finite.
DistilSums distil(const Model& student, const RowMatrix& teacherHead, const float* x,
                  const float* teacherNormed, const int32_t* tokens, int64_t count, float scale, bool rounds,
                  const Job& job, float* dx);

}  // namespace flrc
