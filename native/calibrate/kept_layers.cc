#include "calibrate/kept_layers.h"

#include <vector>

#include "calibrate/layer_moments.h"
#include "core/error.h"
#include "core/state_file.h"
#include "platform/file.h"

namespace flrc {
namespace {

bool isThere(const std::string& path) { return platform::File(path, platform::File::Use::read).isOpen(); }

// What was found of one layer, part by part: numbers(vector, count) and slot(store, index, count).
template <typename Found, typename Numbers, typename Slot>
void visitLayer(Found& found, const CalibrationOptions& options, int64_t layer, const Numbers& numbers,
                const Slot& slot) {
  for (int p = 0; p < kProjections; ++p) {
    const int64_t index = layer * kProjections + p;
    const auto at = static_cast<size_t>(index);
    const Linear& linear = found.model->projection(index);
    const int64_t n = linear.inputs, rank = ranksToFind(linear, options);
    numbers(found.singular[at], rank);
    if (options.curves) numbers(found.curves[at], rank + 1);
    slot(*found.factors, at * 2, rank * linear.outputs);
    slot(*found.factors, at * 2 + 1, rank * n);
    if (options.keepInputMoments && ownsInput(p)) {
      slot(*found.inputMoments, static_cast<size_t>(momentSlot(layer, p)), n * (n + 1) / 2);
    }
  }
}

FisherScore* scoresOf(Calibration& calibration, int64_t layer) {
  return calibration.scores.data() + layer * kProjections;
}

// Of all layers so far.
struct Totals {
  double meanLoss = 0;
  int64_t lossTokens = 0;
  CalibrationSeconds seconds;
};

}  // namespace

std::string KeptLayers::path(const char* kind, int64_t layer) const {
  return options_.state + "/" + kind + "-" + std::to_string(layer);
}

int64_t KeptLayers::next(int64_t layers) const {
  int64_t layer = layers - 1;
  while (!options_.state.empty() && layer >= 0 && isThere(path("layer", layer))) --layer;
  return layer;
}

void KeptLayers::restore(int64_t next, Calibration& to, SpillStore& gradients) const {
  const int64_t layers = to.model->config.layers;
  if (next == layers - 1) return;
  for (int64_t layer = layers - 1; layer > next; --layer) {
    StateReader from(path("layer", layer), options_.state, job_);
    from.read(scoresOf(to, layer), kProjections * sizeof(FisherScore));
    std::vector<float> values;
    visitLayer(
        to, options_, layer,
        [&](std::vector<double>& numbers, int64_t count) {
          numbers.resize(static_cast<size_t>(count));
          from.read(numbers.data(), numbers.size() * sizeof(double));
        },
        [&](SpillStore& store, size_t slot, int64_t count) {
          values.resize(static_cast<size_t>(count));
          from.read(values.data(), values.size() * sizeof(float));
          store.put(slot, values.data(), values.size());
        });
    from.finish();
    for (int p = 0; p < kProjections; ++p) {
      const auto index = static_cast<size_t>(layer * kProjections + p);
      to.ranks[index] = static_cast<int64_t>(to.singular[index].size());
    }
    job_.report("calibrate", layers + (layers - layer) * 3, layers * 4);
  }
  StateReader from(path("below", next + 1), options_.state, job_);
  Totals totals;
  from.read(&totals, sizeof totals);
  std::vector<float> values;
  for (size_t s = 0; next >= 0 && s < options_.lengths.size(); ++s) {
    values.resize(static_cast<size_t>(options_.lengths[s] * to.model->config.hidden));
    from.read(values.data(), values.size() * sizeof(float));
    gradients.put(s, values.data(), values.size());
  }
  from.finish();
  // A run that was killed before it did so has left them.
  platform::removeFile(path("below", next + 2));
  to.meanLoss = totals.meanLoss;
  to.lossTokens = totals.lossTokens;
  to.seconds += totals.seconds;
}

void KeptLayers::keep(int64_t layer, const Calibration& from, const SpillStore& gradients) const {
  if (options_.state.empty()) return;
  std::vector<float> scratch;
  const auto slot = [&](StateWriter& to, const SpillStore& store, size_t index) {
    to.write(store.get(index, scratch), store.count(index) * sizeof(float));
  };
  write(path("below", layer), [&](StateWriter& to) {
    const Totals totals = {from.meanLoss, from.lossTokens, from.seconds};
    to.write(&totals, sizeof totals);
    for (size_t s = 0; layer > 0 && s < options_.lengths.size(); ++s) slot(to, gradients, s);
  });
  write(path("layer", layer), [&](StateWriter& to) {
    to.write(from.scores.data() + layer * kProjections, kProjections * sizeof(FisherScore));
    visitLayer(
        from, options_, layer,
        [&](const std::vector<double>& numbers, int64_t) {
          to.write(numbers.data(), numbers.size() * sizeof(double));
        },
        [&](const SpillStore& store, size_t index, int64_t) { slot(to, store, index); });
  });
  platform::removeFile(path("below", layer + 1));
}

template <typename Write>
void KeptLayers::write(const std::string& path, const Write& contents) const {
  const std::string part = path + ".part";
  try {
    {
      StateWriter to(part, "", job_);
      contents(to);
      to.finish();
    }
    if (platform::replaceFile(part, path)) return;
    throw Error(code::io, path + " cannot be put in its place: " + platform::lastError(), path);
  } catch (...) {
    platform::removeFile(part);
    throw;
  }
}

}  // namespace flrc
