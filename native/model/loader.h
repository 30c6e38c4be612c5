#pragma once

#include <memory>
#include <vector>

#include "core/job.h"
#include "model/model.h"
#include "tensor/source.h"

namespace flrc {

struct ModelSpec {
  ModelConfig config;
  std::vector<TensorSource> tensors;
  Dtype dtype = Dtype::bf16;
  int threads = 0;  // 0 is all cores
  std::vector<std::vector<int32_t>> levels;
  const Backend* backend = nullptr;  // what computes; null is the CPU
};

// Reads all weights into memory in `dtype`. Factored projections are recognised by their tensors
// (NAME.P.b, NAME.C.b, NAME.I.b or NAME.U, NAME.V in place of NAME.weight). Everything TypeScript said is
// checked again: presence, shapes, sizes, ranks. Errors name the file and the tensor. On another backend than
// the CPU's the weights are copied there at once.
std::shared_ptr<const Model> loadModel(const ModelSpec& spec, const Job& job);

}  // namespace flrc
