#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/job.h"
#include "model/model.h"
#include "tensor/output.h"

namespace flrc {

// All tensors of the model in the order they are written. dense: factors multiplied out, every weight in bf16
// or f32 under its Hugging Face name (export).
std::vector<TensorEntry> tensorEntries(const Model& model, bool dense);

// Writes these tensors at these absolute offsets of an existing file, then fsyncs it. E_IO names the file.
void writeTensors(const Model& model, bool dense, const std::string& file,
                  const std::vector<std::string>& names, const std::vector<int64_t>& offsets, const Job& job);

}  // namespace flrc
