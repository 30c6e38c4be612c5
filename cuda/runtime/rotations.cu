#include <cmath>

#include "runtime/rotations.h"

namespace flrc::gpu {

Rotations::Rotations(const DeviceModel& model, int64_t positions) {
  const int64_t pairs = model.ropePairs();
  std::vector<float> cosines(static_cast<size_t>(positions * pairs)), sines(cosines.size());
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t i = 0; i < pairs; ++i) {
      const double angle = static_cast<double>(p) * model.ropeFrequencies[static_cast<size_t>(i)];
      cosines[static_cast<size_t>(p * pairs + i)] = static_cast<float>(std::cos(angle) * model.ropeScale);
      sines[static_cast<size_t>(p * pairs + i)] = static_cast<float>(std::sin(angle) * model.ropeScale);
    }
  }
  cosine = Buffer<float>(cosines.data(), cosines.size());
  sine = Buffer<float>(sines.data(), sines.size());
}

}  // namespace flrc::gpu
