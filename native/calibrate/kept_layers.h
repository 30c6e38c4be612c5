#pragma once

#include <cstdint>
#include <string>

#include "calibrate/calibrate.h"
#include "core/job.h"

namespace flrc {

// The finished layers of a calibration under way, in a folder, for an interrupted one to go on from:
// `layer-<l>` has all that was found of a layer, `below-<l>` what the layer below it takes: the gradients,
// losses and times. A file is made beside its place, put there once it is whole and on the disk, a layer's
// after what is below it; so however the process ends, what is there is whole. The folder is there already, and
// of this calibration alone.
class KeptLayers {
 public:
  // Keeps nothing where the options name no folder.
  KeptLayers(const CalibrationOptions& options, const Job& job) : options_(options), job_(job) {}

  // The layer to go on with, of `layers`: those above it are kept; -1 where all are.
  int64_t next(int64_t layers) const;
  // Takes those layers from the files. E_MODEL_FORMAT for a damaged one, E_IO.
  void restore(int64_t next, Calibration& to, SpillStore& gradients) const;
  // Keeps one, and what is below it; nothing is left of what is not whole. E_IO.
  void keep(int64_t layer, const Calibration& from, const SpillStore& gradients) const;

 private:
  std::string path(const char* kind, int64_t layer) const;
  template <typename Write>
  void write(const std::string& path, const Write& contents) const;

  const CalibrationOptions& options_;
  const Job& job_;
};

}  // namespace flrc
