#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "calibrate/calibrate.h"
#include "tensor/output.h"
#include "tensor/source.h"

namespace flrc {

// A calibration as tensors. Of a projection NAME: `NAME.U` [rank, m] and `NAME.V` [rank, n] in F32,
// `NAME.singular` [rank], `NAME.curve` [rank + 1] where there are curves, and `NAME.scores` [3] (FisherScore)
// in F64; and where moments were kept, of each input's first projection `NAME.moment` [n (n + 1) / 2] in F32.
std::vector<TensorEntry> calibrationTensors(const Calibration& calibration);
void writeCalibrationTensors(const Calibration& calibration, const std::string& file,
                             const std::vector<std::string>& names, const std::vector<int64_t>& offsets,
                             const Job& job);

struct StoredCalibration {
  std::vector<TensorSource> tensors;
  bool curves = true, inputMoments = false;
  int64_t memory = 0;  // bytes that cutting may hold
};

// A calibration of this model from its tensors; losses, times and limits are left empty. Factors and moments
// stay in the files, which are read whenever something is cut and may not change meanwhile. E_MODEL_FORMAT,
// E_NUMERIC and E_IO name file and tensor.
std::shared_ptr<const Calibration> readCalibration(std::shared_ptr<const Model> model,
                                                   const StoredCalibration& stored, const Job& job);

}  // namespace flrc
