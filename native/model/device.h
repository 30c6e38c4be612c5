#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backend.h"
#include "core/job.h"

namespace flrc {

struct Model;

std::string messageOf(const BackendFailure& failure);
[[noreturn]] void throwBackendFailure(BackendCode result, const BackendFailure& failure);

// Throws what a function of a backend's table reports of its failure.
template <typename Call>
void callBackend(const Call& call) {
  BackendFailure failure{};
  const BackendCode result = call(&failure);
  if (result != BackendCode::ok) throwBackendFailure(result, failure);
}

// The cancelling of a job, as backends ask for it. The job must outlive the call.
BackendCancel cancelOf(const Job& job);

// Which backend computes with a model, and its copy of the weights, made when first needed. A copied model
// begins without one: its weights are about to change.
class DeviceSlot {
 public:
  DeviceSlot();
  DeviceSlot(const DeviceSlot& other) : backend_(other.backend_) {}
  DeviceSlot& operator=(const DeviceSlot&) = delete;
  ~DeviceSlot();

  const Backend& backend() const { return *backend_; }
  // Before anything is computed.
  void choose(const Backend& backend) { backend_ = &backend; }
  // E_DEVICE, E_OUT_OF_MEMORY, E_ABORTED; another call then tries again.
  DeviceModel* weights(const Model& model, const Job& job) const;

 private:
  const Backend* backend_;
  mutable std::mutex mutex_;
  mutable DeviceModel* weights_ = nullptr;
};

// One sequence on a backend: keys, values and the last position's logits.
class SequenceHandle {
 public:
  SequenceHandle(const Backend& backend, DeviceModel* weights);

  // The first `length` positions and the logits, on their own.
  SequenceHandle copy(int64_t length) const;
  void getLogits(float* out) const;
  void setLogits(const float* logits);
  // E_NUMERIC if a logit is not finite.
  BackendSampled sample(const BackendSampling& sampling) const;
  size_t bytes() const { return backend_->sequenceBytes(sequence_.get()); }
  DeviceSequence* get() const { return sequence_.get(); }

 private:
  using Owned = std::unique_ptr<DeviceSequence, void (*)(DeviceSequence*)>;
  SequenceHandle(const Backend& backend, Owned sequence) : backend_(&backend), sequence_(std::move(sequence)) {}

  const Backend* backend_;
  Owned sequence_;
};

// From sequences of one model that are there once each; what each gives alone, but that a token is -1 where a
// logit is not finite.
std::vector<BackendSampled> sampleEach(const Backend& backend, const std::vector<BackendDraw>& draws);

// Working memory of a backend's passes, and the passes.
class PassHandle {
 public:
  PassHandle(const Backend& backend, DeviceModel* weights);

  void run(const int32_t* tokens, const BackendRow* rows, int64_t count, int64_t level, const Job& job);
  void logits(const int64_t* rows, int64_t count, float* out);
  void keepLogits(const int64_t* rows, int64_t count);
  // Tokens as sampleEach() gives them.
  std::vector<BackendSampled> likeliest(const int64_t* rows, int64_t count);
  size_t bytes() const { return backend_->passBytes(pass_.get()); }

 private:
  const Backend* backend_;
  std::unique_ptr<DevicePass, void (*)(DevicePass*)> pass_;
};

}  // namespace flrc
