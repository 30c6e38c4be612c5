#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/device_limits.h"
#include "runtime/memory.h"
#include "runtime/sampler.h"
#include "runtime/weights.h"

namespace flrc {

namespace gpu {
class PrefillSteps;
}  // namespace gpu

// All work of all models goes through one queue, under its lock: launches of kernels/linears.h from two queues
// could each keep the other from being complete.
struct Device {
  static Device& shared();

  std::mutex mutex;
  gpu::Queue queue;
};

// How the one token of a decode step goes through the layers: by launches, product after product, or in one
// launch where that can be (runtime/step_program.h).
enum class StepWay { faster, launches, whole };

// A BackendRope of its own.
struct RotationSpec {
  std::vector<double> frequencies;
  float scale;
};

// The contract's handles.

struct DeviceModel {
  explicit DeviceModel(const BackendModel& from, const BackendCancel& cancel);
  ~DeviceModel();

  const gpu::RowWeights& headRows() const { return tied ? embedding : head; }
  int64_t rank(int64_t level, int64_t layer, int projection) const {
    return ranks[static_cast<size_t>(level)][static_cast<size_t>(layer * kBackendProjections + projection)];
  }
  int64_t queryWidth() const { return heads * headDim; }
  int64_t kvWidth() const { return kvHeads * headDim; }

  int64_t layerCount, hidden, heads, kvHeads, headDim;
  int64_t intermediate;  // of the widest MLP there may be, which working memory is for
  int64_t vocab, context;
  float eps;
  std::vector<RotationSpec> ropes;
  Activation activation;
  float embeddingScale, queryScale, residualScale;
  std::vector<std::vector<int32_t>> ranks;  // by level
  bool tied;

  std::mutex& mutex = Device::shared().mutex;
  gpu::Queue& queue = Device::shared().queue;
  gpu::DeviceLimits limits;
  StepWay stepWay = StepWay::faster;
  gpu::RowWeights embedding, head;
  gpu::Buffer<float> finalNorm;
  std::vector<gpu::LayerWeights> layers;
  gpu::Sampler sampler;
  // Working memory of prompts, which would be too large for every session to have its own.
  std::unique_ptr<gpu::PrefillSteps> prefill;
};

struct DeviceSequence {
  explicit DeviceSequence(DeviceModel& of) : model(of) {}
  // The first `length` positions of another, and its logits.
  DeviceSequence(const DeviceSequence& from, int64_t length);

  // Room for `positions`; what is there stays.
  void reserve(int64_t positions);
  // How a row of logits becomes the sequence's own.
  gpu::LikeliestParams::Row keeping(gpu::Global<const float> row);
  void setLogits(const float* from);
  // A draw from the logits, which puts the token beside the likeliest.
  gpu::SampleParams::Row drawing(const BackendSampling& how);

  // The first `count` positions of another, to room that is there.
  void take(const DeviceSequence& from, int64_t count);
  void makeLogits();

  DeviceModel& model;
  gpu::Buffer<uint16_t> keys, values;  // bf16, [layers][capacity][kvHeads * headDim]
  int64_t capacity = 0;
  int64_t length = 0;  // positions that have been written
  // Made when there are any.
  gpu::Buffer<float> logits;
  gpu::Buffer<gpu::Likeliest> likeliest;
  gpu::HostBuffer<gpu::SampledRow> sampled;  // the likeliest token, and the last one drawn
};

inline BackendSampled sampledOf(const gpu::SampledRow& row) { return {row.token, row.logprob, row.entropy}; }

// From sequences of one model: one launch for all that are not greedy, and one wait.
void sampleEach(const BackendDraw* draws, int64_t count, BackendSampled* out);

namespace gpu {

// Positions that a cache is made for: powers of two from kLeastPositions on, up to the context.
inline constexpr int64_t kLeastPositions = 64;
int64_t capacityFor(int64_t positions, int64_t context);

}  // namespace gpu
}  // namespace flrc
