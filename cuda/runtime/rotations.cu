#include <cmath>

#include "runtime/rotations.h"

namespace flrc::gpu {

Rotations::Rotations(const DeviceModel& model, int64_t positions) {
  for (const RotationSpec& rope : model.ropes) {
    const auto pairs = static_cast<int64_t>(rope.frequencies.size());
    std::vector<float> cosines(static_cast<size_t>(positions * pairs)), sines(cosines.size());
    for (int64_t p = 0; p < positions; ++p) {
      for (int64_t i = 0; i < pairs; ++i) {
        const double angle = static_cast<double>(p) * rope.frequencies[static_cast<size_t>(i)];
        cosines[static_cast<size_t>(p * pairs + i)] = static_cast<float>(std::cos(angle) * rope.scale);
        sines[static_cast<size_t>(p * pairs + i)] = static_cast<float>(std::sin(angle) * rope.scale);
      }
    }
    tables_.push_back({static_cast<int>(pairs), Buffer<float>(cosines.data(), cosines.size()),
                       Buffer<float>(sines.data(), sines.size())});
  }
}

uint64_t Rotations::bytes() const {
  uint64_t total = 0;
  for (const Table& table : tables_) total += table.cosine.bytes() + table.sine.bytes();
  return total;
}

Rotations::View Rotations::of(const LayerWeights& layer) const {
  if (layer.rope < 0) return {nullptr, nullptr, 0};
  const Table& table = tables_[static_cast<size_t>(layer.rope)];
  return {table.cosine.read(), table.sine.read(), table.pairs};
}

}  // namespace flrc::gpu
