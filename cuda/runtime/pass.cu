#include <algorithm>
#include <numeric>

#include "runtime/failure.h"
#include "runtime/pass.h"
#include "runtime/prefill_steps.h"

namespace flrc {

void DevicePass::run(const int32_t* tokens, const BackendRow* rows, int64_t count, int64_t level,
                     const BackendCancel& cancel) {
  gpu::checkGoesOn(cancel);
  sequences_.clear();
  int64_t longest = 0;
  for (int64_t t = 0; t < count; ++t) {
    DeviceSequence& sequence = *rows[t].sequence;
    sequences_.push_back(&sequence);
    sequence.reserve(rows[t].position + 1);
    longest = std::max(longest, rows[t].position + 1);
  }
  const int64_t positions = gpu::capacityFor(longest, model.context);
  if (count > kBackendRows) {
    std::unique_ptr<gpu::PrefillSteps>& steps = model.prefill;
    if (!steps || steps->columns() < count) steps = std::make_unique<gpu::PrefillSteps>(model, count);
    steps->reserve(positions);
    steps->describe(tokens, rows, count);
    steps->enqueue(level, count);
    const auto floats = static_cast<size_t>(count * model.hidden);
    if (states_.count() < floats) states_ = gpu::Buffer<float>(floats);
    model.queue.move<float>({steps->states()}, floats, {states_}, floats, floats);
    // Whoever cancels must not wait for what is queued far ahead.
    model.queue.synchronise();
  } else {
    decode_.reserve(positions);
    decode_.describe(tokens, rows, count);
    decode_.replay(level, count, positions);
  }
  for (int64_t t = 0; t < count; ++t) {
    rows[t].sequence->length = std::max(rows[t].sequence->length, rows[t].position + 1);
  }
}

std::vector<int64_t> DevicePass::place(const int64_t* rows, int64_t count) {
  std::vector<int64_t> places(rows, rows + count);
  // Decoding has made all of them.
  if (static_cast<int64_t>(sequences_.size()) <= kBackendRows) return places;
  decode_.headOf(states_, places);
  std::iota(places.begin(), places.end(), int64_t{0});
  return places;
}

void DevicePass::logits(const int64_t* rows, int64_t count, float* out) {
  const std::vector<int64_t> places = place(rows, count);
  const auto vocab = static_cast<size_t>(model.vocab);
  for (size_t i = 0; i < places.size(); ++i) {
    model.queue.download(decode_.logits(), static_cast<size_t>(places[i]) * vocab, vocab, out + i * vocab);
  }
}

void DevicePass::keepLogits(const int64_t* rows, int64_t count) {
  const std::vector<int64_t> places = place(rows, count);
  std::vector<gpu::LikeliestParams::Row> kept;
  for (size_t i = 0; i < places.size(); ++i) {
    DeviceSequence& sequence = *sequences_[static_cast<size_t>(rows[i])];
    const auto isSame = [&](int64_t row) { return sequences_[static_cast<size_t>(row)] == &sequence; };
    // Of several rows of a sequence the last one's stay.
    if (std::any_of(rows + i + 1, rows + count, isSame)) continue;
    kept.push_back(sequence.keeping(decode_.logits().read() + places[i] * model.vocab));
  }
  model.sampler.keep(model.queue, kept);
}

void DevicePass::likeliest(const int64_t* rows, int64_t count, BackendSampled* out) {
  if (likeliest_.count() == 0) {
    likeliest_ = gpu::Buffer<gpu::Likeliest>(kBackendRows);
    sampled_ = gpu::HostBuffer<gpu::SampledRow>(kBackendRows);
  }
  std::vector<gpu::LikeliestParams::Row> found;
  for (const int64_t place : this->place(rows, count)) {
    const auto i = static_cast<int64_t>(found.size());
    const gpu::Global<float> row = decode_.logits().global() + place * model.vocab;
    found.push_back({row, row, likeliest_.global() + i, sampled_.global() + i});
  }
  model.sampler.keep(model.queue, found);
  model.queue.synchronise();
  for (int64_t i = 0; i < count; ++i) out[i] = sampledOf(sampled_.at(static_cast<size_t>(i)));
}

}  // namespace flrc
