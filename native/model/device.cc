#include "model/device.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "core/error.h"
#include "model/cpu_backend.h"
#include "model/model.h"
#include "model/sampler.h"

namespace flrc {
namespace {

static_assert(kBackendProjections == kProjections);

BackendRows rowsOf(const RowMatrix& matrix) {
  return {matrix.dtype,       matrix.rows,         matrix.cols,       matrix.stride,
          matrix.data.data(), matrix.scale.data(), matrix.zero.data()};
}

BackendPanels panelsOf(const PanelMatrix& matrix) {
  return {matrix.dtype,       matrix.outputs,      matrix.rank,
          matrix.data.data(), matrix.scale.data(), matrix.zero.data()};
}

const float* dataOf(const Vector& vector) { return vector ? vector->data() : nullptr; }

// A model in the contract's words. Points into the model and into itself.
class Description {
 public:
  explicit Description(const Model& model) {
    const ModelConfig& config = model.config;
    layers_.resize(model.layers.size());
    const size_t projections = model.layers.size() * kProjections;
    dense_.resize(projections);
    blocks_.resize(projections);
    for (size_t l = 0; l < model.layers.size(); ++l) {
      const Layer& layer = model.layers[l];
      BackendLayer& to = layers_[l];
      to = {dataOf(layer.attentionNorm),
            dataOf(layer.mlpNorm),
            dataOf(layer.queryNorm),
            dataOf(layer.keyNorm),
            dataOf(layer.attentionOutputNorm),
            dataOf(layer.mlpOutputNorm),
            config.slidingWindow[l],
            config.layerRope[l],
            {}};
      for (size_t p = 0; p < kProjections; ++p) {
        describe(layer.projections[p], l * kProjections + p, to.projections[p]);
      }
    }
    for (const auto& level : model.levels) ranks_.push_back(level.data());
    for (const Rope& rope : config.ropes) {
      ropes_.push_back({std::ssize(rope.frequencies), rope.frequencies.data(), rope.scale});
    }
    all_ = {sizeof(BackendModel),
            config.layers,
            config.hidden,
            config.heads,
            config.kvHeads,
            config.headDim,
            config.intermediate,
            config.vocab,
            config.context,
            config.eps,
            ropes_.data(),
            std::ssize(ropes_),
            config.activation,
            config.embeddingScale,
            config.queryScale,
            config.residualScale,
            rowsOf(*model.embedding),
            rowsOf(*model.head),
            model.headNorm->data(),
            layers_.data(),
            static_cast<int64_t>(ranks_.size()),
            ranks_.data(),
            &model};
  }

  const BackendModel& all() const { return all_; }

 private:
  void describe(const Linear& linear, size_t index, BackendLinear& to) {
    to.outputs = linear.outputs;
    to.inputs = linear.inputs;
    if (!linear.factored()) {
      dense_[index] = rowsOf(*linear.dense);
      to.dense = &dense_[index];
    }
    for (const auto& block : linear.blocks) {
      blocks_[index].push_back({rowsOf(block->p), panelsOf(block->c),
                                linear.pivoted ? block->pivot.data() : nullptr,
                                linear.pivoted ? block->gather.data() : nullptr});
    }
    to.blocks = blocks_[index].data();
    to.blockCount = static_cast<int64_t>(linear.blocks.size());
    to.pivoted = linear.pivoted;
    to.bias = linear.bias.empty() ? nullptr : linear.bias.data();
  }

  std::vector<BackendLayer> layers_;
  std::vector<BackendRows> dense_;
  std::vector<std::vector<BackendBlock>> blocks_;
  std::vector<const int32_t*> ranks_;
  std::vector<BackendRope> ropes_;
  BackendModel all_{};
};

const char* errorCode(BackendCode result) {
  switch (result) {
    case BackendCode::outOfMemory:
      return code::outOfMemory;
    case BackendCode::aborted:
      return code::aborted;
    case BackendCode::device:
      return code::device;
    case BackendCode::numeric:
      return code::numeric;
    default:
      return code::internal;
  }
}

}  // namespace

std::string messageOf(const BackendFailure& failure) {
  // The far side may have filled all of it.
  return {failure.message, strnlen(failure.message, sizeof failure.message)};
}

void throwBackendFailure(BackendCode result, const BackendFailure& failure) {
  throw Error(errorCode(result), messageOf(failure));
}

BackendCancel cancelOf(const Job& job) {
  // A table takes no promise to leave the context alone; ours only reads it.
  return {const_cast<Job*>(&job), [](void* context) { return static_cast<const Job*>(context)->cancelled(); }};
}

DeviceSlot::DeviceSlot() : backend_(&cpuBackend()) {}

DeviceSlot::~DeviceSlot() {
  if (weights_) backend_->releaseModel(weights_);
}

DeviceModel* DeviceSlot::weights(const Model& model, const Job& job) const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!weights_) {
    const Description description(model);
    const BackendCancel cancel = cancelOf(job);
    callBackend([&](BackendFailure* failure) {
      return backend_->createModel(&description.all(), &cancel, &weights_, failure);
    });
  }
  return weights_;
}

SequenceHandle::SequenceHandle(const Backend& backend, DeviceModel* weights)
    : backend_(&backend), sequence_(nullptr, backend.releaseSequence) {
  DeviceSequence* made = nullptr;
  callBackend([&](BackendFailure* failure) { return backend.createSequence(weights, &made, failure); });
  sequence_.reset(made);
}

SequenceHandle SequenceHandle::copy(int64_t length) const {
  DeviceSequence* made = nullptr;
  callBackend(
      [&](BackendFailure* failure) { return backend_->copySequence(sequence_.get(), length, &made, failure); });
  return {*backend_, Owned(made, backend_->releaseSequence)};
}

void SequenceHandle::getLogits(float* out) const {
  callBackend([&](BackendFailure* failure) { return backend_->getLogits(sequence_.get(), out, failure); });
}

void SequenceHandle::setLogits(const float* logits) {
  callBackend([&](BackendFailure* failure) { return backend_->setLogits(sequence_.get(), logits, failure); });
}

BackendSampled SequenceHandle::sample(const BackendSampling& sampling) const {
  const BackendSampled sampled = sampleEach(*backend_, {{sequence_.get(), sampling}}).front();
  if (sampled.token < 0) throw notFinite();
  return sampled;
}

std::vector<BackendSampled> sampleEach(const Backend& backend, const std::vector<BackendDraw>& draws) {
  std::vector<BackendSampled> sampled(draws.size());
  for (size_t done = 0; done < draws.size(); done += kBackendRows) {
    const size_t count = std::min(static_cast<size_t>(kBackendRows), draws.size() - done);
    callBackend([&](BackendFailure* failure) {
      return backend.sample(draws.data() + done, static_cast<int64_t>(count), sampled.data() + done, failure);
    });
  }
  return sampled;
}

PassHandle::PassHandle(const Backend& backend, DeviceModel* weights)
    : backend_(&backend), pass_(nullptr, backend.releasePass) {
  DevicePass* made = nullptr;
  callBackend([&](BackendFailure* failure) { return backend.createPass(weights, &made, failure); });
  pass_.reset(made);
}

void PassHandle::run(const int32_t* tokens, const BackendRow* rows, int64_t count, int64_t level,
                     const Job& job) {
  const BackendCancel cancel = cancelOf(job);
  callBackend([&](BackendFailure* failure) {
    return backend_->run(pass_.get(), tokens, rows, count, level, &cancel, failure);
  });
}

void PassHandle::logits(const int64_t* rows, int64_t count, float* out) {
  callBackend(
      [&](BackendFailure* failure) { return backend_->logits(pass_.get(), rows, count, out, failure); });
}

std::vector<BackendSampled> PassHandle::likeliest(const int64_t* rows, int64_t count) {
  std::vector<BackendSampled> sampled(static_cast<size_t>(count));
  callBackend([&](BackendFailure* failure) {
    return backend_->likeliest(pass_.get(), rows, count, sampled.data(), failure);
  });
  return sampled;
}

void PassHandle::keepLogits(const int64_t* rows, int64_t count) {
  callBackend([&](BackendFailure* failure) { return backend_->keepLogits(pass_.get(), rows, count, failure); });
}

}  // namespace flrc
