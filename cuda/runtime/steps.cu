#include <algorithm>

#include "runtime/steps.h"

namespace flrc::gpu {
namespace {

// Projections that have an input in common, which go in one launch.
const std::vector<std::vector<int>> kGroups = {{kQ, kK, kV}, {kO}, {kGate, kUp}, {kDown}};

}  // namespace

Widths widest(const DeviceModel& model) {
  Widths most{1, 1};
  for (int64_t l = 0; l < model.layerCount; ++l) {
    for (const std::vector<int>& group : kGroups) {
      std::vector<PlannedLinear> linears;
      for (int p : group) {
        linears.push_back({&model.layers[static_cast<size_t>(l)].projections[p], model.rank(0, l, p), nullptr});
      }
      const Widths widths = widthsOf(linears);
      most.t = std::max(most.t, widths.t);
      most.u = std::max(most.u, widths.u);
    }
  }
  return most;
}

Steps::Steps(DeviceModel& of, int64_t columns) : model(of), how(linearsLaunch(of.limits)), columns_(columns) {
  const auto floats = [](int64_t width, int64_t rows) {
    return Buffer<float>(static_cast<size_t>(rows * width));
  };
  staged_ = HostBuffer<CacheRow>(static_cast<size_t>(columns));
  rows_ = Buffer<CacheRow>(static_cast<size_t>(columns));
  for (Buffer<float>* buffer : {&x_, &normed_, &out_}) *buffer = floats(model.hidden, columns);
  for (Buffer<float>* buffer : {&q_, &attended_}) *buffer = floats(model.queryWidth(), columns);
  for (Buffer<float>* buffer : {&k_, &v_}) *buffer = floats(model.kvWidth(), columns);
  for (Buffer<float>* buffer : {&gate_, &up_}) *buffer = floats(model.intermediate, columns);
  const Widths widths = widest(model);
  const auto zeros = [](int64_t width) {
    const std::vector<uint64_t> values(static_cast<size_t>(kBackendRows * width));
    return Buffer<uint64_t>(values.data(), values.size());
  };
  t_ = zeros(widths.t);
  u_ = zeros(widths.u);
  const std::vector<uint32_t> none(kMostGrid);
  epochs_ = Buffer<uint32_t>(none.data(), none.size());
}

uint64_t Steps::bytes() const {
  uint64_t total = staged_.bytes() + rows_.bytes() + t_.bytes() + u_.bytes() + rotations_.bytes();
  for (const Buffer<float>* buffer : {&x_, &normed_, &q_, &k_, &v_, &attended_, &gate_, &up_, &out_}) {
    total += buffer->bytes();
  }
  return total;
}

void Steps::reserve(int64_t positions) {
  if (positions <= positions_) return;
  rotations_ = Rotations(model, positions);
  positions_ = positions;
}

void Steps::describe(const int32_t* tokens, const BackendRow* rows, int64_t count) {
  std::vector<CacheRow> described;
  for (int64_t t = 0; t < count; ++t) {
    const DeviceSequence& sequence = *rows[t].sequence;
    described.push_back({sequence.keys.global(), sequence.values.global(), sequence.capacity * model.kvWidth(),
                         static_cast<int>(rows[t].position), tokens[t]});
  }
  // What has been enqueued may not have read those before.
  model.queue.synchronise();
  staged_.write(described.data(), described.size());
  sequence_ = rows[0].sequence;
  position_ = rows[0].position;
}

void Steps::embed(int64_t columns) {
  const RowWeights& embedding = model.embedding;
  launchEmbed(model.queue.stream(), embedding.dtype,
              {embedding.data.read(), static_cast<int>(model.hidden), staged_.read(), rows_.global(),
               x_.global(), model.embeddingScale},
              static_cast<int>(columns), false);
}

void Steps::enqueue(int64_t level, int64_t columns) {
  embed(columns);
  for (int64_t l = 0; l < model.layerCount; ++l) layer(l, level, columns);
  norm(out_.read(), model.finalNorm, columns, how.dependent);
}

void Steps::layer(int64_t index, int64_t level, int64_t columns) {
  const LayerWeights& layer = model.layers[static_cast<size_t>(index)];
  const auto planned = [&](int projection, const Buffer<float>& y) {
    return PlannedLinear{&layer.projections[projection], model.rank(level, index, projection), y.global()};
  };
  // What the layer before has made is added on the way. The first launch after the embedding waits for its
  // rows, for all launches behind it.
  norm(index > 0 ? out_.read() : Global<const float>(nullptr), layer.attentionNorm, columns,
       index > 0 && how.dependent);
  multiply({planned(kQ, q_), planned(kK, k_), planned(kV, v_)}, normed_.read(), columns);
  const Rotations::View turns = rotations_.of(layer);
  attend(
      index,
      {q_.global(), k_.read(), v_.read(), layer.queryNorm.read(), layer.keyNorm.read(), model.eps, turns.cosine,
       turns.sine, static_cast<int>(model.heads), static_cast<int>(model.kvHeads),
       static_cast<int>(model.headDim), turns.pairs, rows_.read(), static_cast<int>(index), model.queryScale},
      columns);
  multiply({planned(kO, out_)}, attended_.read(), columns);
  normOutput(layer.attentionOutputNorm, columns);
  norm(out_.read(), layer.mlpNorm, columns, how.dependent);
  multiply({planned(kGate, gate_), planned(kUp, up_)}, normed_.read(), columns);
  launchGated(model.queue.stream(),
              {gate_.read(), up_.read(), gate_.global(), columns * layer.intermediate(), model.activation},
              how.dependent);
  multiply({planned(kDown, out_)}, gate_.read(), columns);
  normOutput(layer.mlpOutputNorm, columns);
}

void Steps::normOutput(const Buffer<float>& weight, int64_t columns) {
  if (weight.count() == 0) return;
  launchNorm(model.queue.stream(),
             {out_.global(), nullptr, weight.read(), out_.global(), model.eps, static_cast<int>(model.hidden)},
             static_cast<int>(columns), how.dependent);
}

void Steps::norm(Global<const float> add, const Buffer<float>& weight, int64_t columns, bool dependent) {
  launchNorm(model.queue.stream(),
             {x_.global(), add, weight.read(), normed_.global(), model.eps, static_cast<int>(model.hidden),
              model.residualScale},
             static_cast<int>(columns), dependent);
}

void Steps::multiply(const std::vector<PlannedLinear>& linears, Global<const float> x, int64_t columns) {
  const LinearWeights& any = *linears.front().weights;
  for (int64_t first = 0; first < columns; first += kBackendRows) {
    std::vector<PlannedLinear> part = linears;
    for (PlannedLinear& linear : part) linear.y = linear.y + first * linear.weights->outputs;
    launch(planLinears(part), any.dtype(), x + first * any.inputs, std::min(kBackendRows, columns - first));
  }
}

void Steps::launch(LinearsParams params, Dtype dtype, Global<const float> x, int64_t columns) {
  params.x = x;
  params.columns = static_cast<int>(columns);
  params.t = t_.global();
  params.u = u_.global();
  params.epochs = epochs_.global();
  launchLinears(model.queue.stream(), dtype, params, how);
}

}  // namespace flrc::gpu
