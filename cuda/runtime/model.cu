#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "runtime/failure.h"
#include "runtime/model.h"
#include "runtime/prefill_steps.h"

namespace flrc {
namespace {

using gpu::Failure;

void checkFits(const BackendModel& model) {
  const std::string limit = gpu::limitOf(model);
  if (!limit.empty()) throw Failure(BackendCode::device, limit);
  const uint64_t wanted = gpu::bytesOf(model), free = gpu::freeBytes();
  if (wanted + gpu::kSpareBytes > free) {
    throw Failure(BackendCode::outOfMemory, "the model's weights take " + std::to_string(wanted >> 20) +
                                                " MB, and the GPU has " + std::to_string(free >> 20) +
                                                " MB free; use a smaller dtype, fewer ranks, or device cpu");
  }
}

gpu::Buffer<float> vectorOf(const float* from, int64_t count) {
  return from ? gpu::Buffer<float>(from, static_cast<size_t>(count)) : gpu::Buffer<float>();
}

}  // namespace

Device& Device::shared() {
  // Never destroyed: the CUDA run-time library may be gone by then.
  static Device* device = new Device;
  return *device;
}

DeviceModel::DeviceModel(const BackendModel& from, const BackendCancel& cancel)
    : layerCount(from.layers),
      hidden(from.hidden),
      heads(from.heads),
      kvHeads(from.kvHeads),
      headDim(from.headDim),
      intermediate(from.intermediate),
      vocab(from.vocab),
      context(from.context),
      eps(from.eps),
      activation(from.activation),
      embeddingScale(from.embeddingScale),
      queryScale(from.queryScale),
      residualScale(from.residualScale),
      tied(from.head.data == from.embedding.data) {
  checkFits(from);
  limits = gpu::currentDevice();
  for (int64_t i = 0; i < from.ropeCount; ++i) {
    const BackendRope& rope = from.ropes[i];
    ropes.push_back({{rope.frequencies, rope.frequencies + rope.pairs}, rope.scale});
  }
  for (int64_t l = 0; l < from.levels; ++l) {
    ranks.emplace_back(from.ranks[l], from.ranks[l] + from.layers * kBackendProjections);
  }
  embedding = gpu::RowWeights(from.embedding);
  if (!tied) head = gpu::RowWeights(from.head);
  finalNorm = vectorOf(from.finalNorm, hidden);
  layers.resize(static_cast<size_t>(layerCount));
  for (int64_t l = 0; l < layerCount; ++l) {
    gpu::checkGoesOn(cancel);
    const BackendLayer& layer = from.layer[l];
    gpu::LayerWeights& to = layers[static_cast<size_t>(l)];
    to.attentionNorm = vectorOf(layer.attentionNorm, hidden);
    to.mlpNorm = vectorOf(layer.mlpNorm, hidden);
    to.queryNorm = vectorOf(layer.queryNorm, headDim);
    to.keyNorm = vectorOf(layer.keyNorm, headDim);
    to.attentionOutputNorm = vectorOf(layer.attentionOutputNorm, hidden);
    to.mlpOutputNorm = vectorOf(layer.mlpOutputNorm, hidden);
    to.window = layer.window;
    to.rope = layer.rope;
    for (int p = 0; p < kBackendProjections; ++p) to.projections[p] = gpu::LinearWeights(layer.projections[p]);
  }
  sampler = gpu::Sampler(vocab, limits.multiprocessors);
}

DeviceModel::~DeviceModel() = default;

DeviceSequence::DeviceSequence(const DeviceSequence& from, int64_t count) : DeviceSequence(from.model) {
  // All room before the first copy: what is freed where there is none must not be in use.
  if (from.logits.count() > 0) makeLogits();
  if (count > 0) {
    reserve(count);
    take(from, count);
  }
  if (from.logits.count() > 0) model.sampler.keep(model.queue, {keeping(from.logits.read())});
}

void DeviceSequence::take(const DeviceSequence& from, int64_t count) {
  const auto layers = static_cast<size_t>(model.layerCount), width = static_cast<size_t>(model.kvWidth());
  const size_t fromLayer = static_cast<size_t>(from.capacity) * width,
               layer = static_cast<size_t>(capacity) * width;
  const size_t values16 = static_cast<size_t>(count) * width;
  model.queue.move<uint16_t>({from.keys}, fromLayer, {keys}, layer, values16, layers);
  model.queue.move<uint16_t>({from.values}, fromLayer, {values}, layer, values16, layers);
  length = count;
}

void DeviceSequence::reserve(int64_t positions) {
  if (positions <= capacity) return;
  DeviceSequence larger(model);
  larger.capacity = gpu::capacityFor(positions, model.context);
  const auto size = static_cast<size_t>(model.layerCount * larger.capacity * model.kvWidth());
  larger.keys = gpu::Buffer<uint16_t>(size);
  larger.values = gpu::Buffer<uint16_t>(size);
  if (length > 0) {
    larger.take(*this, length);
    // What is read from is freed at the end.
    model.queue.synchronise();
  }
  std::swap(keys, larger.keys);
  std::swap(values, larger.values);
  std::swap(capacity, larger.capacity);
}

gpu::LikeliestParams::Row DeviceSequence::keeping(gpu::Global<const float> row) {
  makeLogits();
  return {row, logits.global(), likeliest.global(), sampled.global()};
}

void DeviceSequence::makeLogits() {
  if (logits.count() > 0) return;
  likeliest = gpu::Buffer<gpu::Likeliest>(1);
  sampled = gpu::HostBuffer<gpu::SampledRow>(2);
  logits = gpu::Buffer<float>(static_cast<size_t>(model.vocab));
}

void DeviceSequence::setLogits(const float* from) {
  makeLogits();
  model.queue.upload(logits, from);
  model.sampler.keep(model.queue, {keeping(logits.read())});
}

gpu::SampleParams::Row DeviceSequence::drawing(const BackendSampling& how) {
  const auto topK = static_cast<int32_t>(std::min<int64_t>(how.topK, model.vocab));
  // Within what f32 has: at either end draws are already as they are beyond it.
  using Limits = std::numeric_limits<float>;
  const double temperature = std::clamp<double>(how.temperature, Limits::min(), Limits::max());
  return {logits.read(),
          likeliest.read(),
          sampled.global() + 1,
          {static_cast<float>(temperature), topK, static_cast<float>(how.topP), static_cast<float>(how.minP),
           how.seed, how.draw}};
}

void sampleEach(const BackendDraw* draws, int64_t count, BackendSampled* out) {
  const auto isGreedy = [&](int64_t i) { return draws[i].sampling.temperature == 0; };
  DeviceModel& model = draws[0].sequence->model;
  std::vector<gpu::SampleParams::Row> rows;
  for (int64_t i = 0; i < count; ++i) {
    if (!isGreedy(i)) rows.push_back(draws[i].sequence->drawing(draws[i].sampling));
  }
  if (!rows.empty()) model.sampler.draw(model.queue, rows);
  model.queue.synchronise();
  for (int64_t i = 0; i < count; ++i) {
    out[i] = sampledOf(draws[i].sequence->sampled.at(isGreedy(i) ? 0 : 1));
  }
}

namespace gpu {

int64_t capacityFor(int64_t positions, int64_t context) {
  int64_t capacity = kLeastPositions;
  while (capacity < positions) capacity *= 2;
  return std::max(positions, std::min(capacity, context));
}

}  // namespace gpu
}  // namespace flrc
