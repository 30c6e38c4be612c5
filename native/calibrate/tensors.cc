#include "calibrate/tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <unordered_map>

#include "calibrate/layer_moments.h"
#include "core/error.h"

namespace flrc {
namespace {

constexpr int64_t kScores = 3;

std::string nameOf(int64_t index) {
  return projectionName(index / kProjections, static_cast<int>(index % kProjections));
}

bool keepsMoment(const Calibration& calibration, int64_t index) {
  return calibration.inputMoments && ownsInput(static_cast<int>(index % kProjections));
}

size_t momentSlotOf(int64_t index) {
  return static_cast<size_t>(momentSlot(index / kProjections, static_cast<int>(index % kProjections)));
}

std::function<std::vector<uint8_t>()> bytesOf(const SpillStore& store, size_t slot) {
  return [&store, slot] {
    std::vector<float> scratch;
    return rawBytes(store.get(slot, scratch), store.count(slot));
  };
}

std::vector<TensorOutput> outputsOf(const Calibration& from) {
  std::vector<TensorOutput> outputs;
  for (int64_t i = 0; i < from.model->projectionCount(); ++i) {
    const auto at = static_cast<size_t>(i);
    const std::string name = nameOf(i);
    const Linear& linear = from.model->projection(i);
    const int64_t rank = from.ranks[at], n = linear.inputs;
    outputs.emplace_back(name + ".U", "F32", std::vector{rank, linear.outputs}, bytesOf(*from.factors, at * 2));
    outputs.emplace_back(name + ".V", "F32", std::vector{rank, n}, bytesOf(*from.factors, at * 2 + 1));
    outputs.emplace_back(name + ".singular", "F64", std::vector{rank},
                         [&from, at] { return rawBytes(from.singular[at]); });
    if (!from.curves[at].empty()) {
      outputs.emplace_back(name + ".curve", "F64", std::vector{rank + 1},
                           [&from, at] { return rawBytes(from.curves[at]); });
    }
    outputs.emplace_back(name + ".scores", "F64", std::vector{kScores}, [&from, at] {
      const FisherScore& score = from.scores[at];
      return rawBytes(std::vector{score.weighted, score.gradient, score.taylor});
    });
    if (keepsMoment(from, i)) {
      outputs.emplace_back(name + ".moment", "F32", std::vector{n * (n + 1) / 2},
                           bytesOf(*from.inputMoments, momentSlotOf(i)));
    }
  }
  return outputs;
}

class Reading {
 public:
  Reading(std::shared_ptr<const Model> model, const StoredCalibration& stored, const Job& job)
      : stored_(stored), job_(job), result_(std::make_shared<Calibration>()) {
    for (const TensorSource& tensor : stored.tensors) byName_.emplace(tensor.name, &tensor);
    const auto projections = static_cast<size_t>(model->projectionCount());
    result_->scores.resize(projections);
    result_->curves.resize(projections);
    result_->singular.resize(projections);
    result_->ranks.resize(projections);
    result_->memory = stored.memory;
    // Nothing is put into these stores, so they need no space.
    result_->factors = std::make_unique<SpillStore>(nullptr, projections * 2);
    if (stored.inputMoments) {
      const auto inputs = static_cast<size_t>(model->config.layers * kInputs);
      result_->inputMoments = std::make_unique<SpillStore>(nullptr, inputs);
    }
    result_->model = std::move(model);
  }

  std::shared_ptr<const Calibration> read() {
    for (int64_t i = 0; i < result_->model->projectionCount(); ++i) {
      job_.check();
      projection(i);
    }
    return result_;
  }

 private:
  void projection(int64_t index) {
    const auto at = static_cast<size_t>(index);
    const std::string name = nameOf(index);
    const Linear& linear = result_->model->projection(index);
    const int64_t m = linear.outputs, n = linear.inputs, rank = rankOf(name + ".U", std::min(m, n));
    result_->ranks[at] = rank;
    result_->factors->place(at * 2, reader(name + ".U", {rank, m}, SourceType::f32));
    result_->factors->place(at * 2 + 1, reader(name + ".V", {rank, n}, SourceType::f32));
    result_->singular[at] = doubles(name + ".singular", rank);
    if (stored_.curves) result_->curves[at] = doubles(name + ".curve", rank + 1);
    const std::vector<double> scores = doubles(name + ".scores", kScores);
    result_->scores[at] = {scores[0], scores[1], scores[2]};
    if (keepsMoment(*result_, index)) {
      result_->inputMoments->place(momentSlotOf(index),
                                   reader(name + ".moment", {n * (n + 1) / 2}, SourceType::f32));
    }
  }

  [[noreturn]] static void refuse(const std::string& what, const std::string& file, const std::string& tensor) {
    throw Error(code::modelFormat,
                (file.empty() ? "the calibration" : file) + ": " + what + "; calibrate again", file, tensor);
  }

  const TensorSource& source(const std::string& name) const {
    const auto found = byName_.find(name);
    if (found != byName_.end()) return *found->second;
    refuse("tensor " + name + " is missing", stored_.tensors.empty() ? "" : stored_.tensors.front().file, name);
  }

  int64_t rankOf(const std::string& name, int64_t most) const {
    const TensorSource& tensor = source(name);
    const int64_t rank = tensor.shape.empty() ? 0 : tensor.shape.front();
    if (rank < 1 || rank > most) {
      refuse(name + " has " + std::to_string(rank) + " ranks, where 1 to " + std::to_string(most) + " can be",
             tensor.file, name);
    }
    return rank;
  }

  TensorReader reader(const std::string& name, const std::vector<int64_t>& shape, SourceType type) {
    const TensorSource& tensor = source(name);
    if (tensor.shape != shape) refuse(name + " has not the shape that the model's has", tensor.file, name);
    auto& file = files_[tensor.file];
    if (!file) file = std::make_shared<SourceFile>(tensor.file);
    TensorReader reader(tensor, file);
    reader.expectType(type);
    return reader;
  }

  std::vector<double> doubles(const std::string& name, int64_t count) {
    const TensorReader from = reader(name, {count}, SourceType::f64);
    std::vector<uint8_t> bytes;
    from.readBytes(0, from.source().rows(), bytes);
    std::vector<double> values(static_cast<size_t>(count));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(double));
    if (!std::all_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); })) {
      refuse(name + " holds NaN or infinite values", from.source().file, name);
    }
    return values;
  }

  const StoredCalibration& stored_;
  const Job& job_;
  std::unordered_map<std::string, const TensorSource*> byName_;
  std::unordered_map<std::string, std::shared_ptr<const SourceFile>> files_;
  std::shared_ptr<Calibration> result_;
};

}  // namespace

std::vector<TensorEntry> calibrationTensors(const Calibration& calibration) {
  return entriesOf(outputsOf(calibration));
}

void writeCalibrationTensors(const Calibration& calibration, const std::string& file,
                             const std::vector<std::string>& names, const std::vector<int64_t>& offsets,
                             const Job& job) {
  writeOutputs(outputsOf(calibration), file, names, offsets, job);
}

std::shared_ptr<const Calibration> readCalibration(std::shared_ptr<const Model> model,
                                                   const StoredCalibration& stored, const Job& job) {
  return Reading(std::move(model), stored, job).read();
}

}  // namespace flrc
