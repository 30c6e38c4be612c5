#include "kernels/attention.h"
#include "runtime/decode_steps.h"

namespace flrc::gpu {

DecodeSteps::DecodeSteps(DeviceModel& of) : Steps(of, kBackendRows) {
  logits_ = Buffer<float>(static_cast<size_t>(kBackendRows * model.vocab));
  const std::vector<uint32_t> zeros(static_cast<size_t>(kBackendRows * model.heads));
  counters_ = Buffer<uint32_t>(zeros.data(), zeros.size());
}

uint64_t DecodeSteps::bytes() const {
  return Steps::bytes() + logits_.bytes() + parts_.bytes() + counters_.bytes();
}

void DecodeSteps::reserve(int64_t positions) {
  if (positions <= roomFor_) return;
  // What was recorded knows the old buffers.
  model.queue.synchronise();
  graphs_.clear();
  Steps::reserve(positions);
  const int64_t chunks = attentionChunks(static_cast<int>(positions), 0);
  parts_ = Buffer<float>(static_cast<size_t>(kBackendRows * model.heads * chunks * (model.headDim + 2)));
  roomFor_ = positions;
}

void DecodeSteps::replay(int64_t level, int64_t columns, int64_t positions) {
  std::unique_ptr<Graph>& graph = graphs_[{level, columns, positions}];
  if (graph) return graph->replay(model.queue);
  const auto launches = [this, level, columns, positions] {
    length_ = positions;
    enqueue(level, columns);
    multiplyHead(columns);
  };
  // Once as it is: kernels are loaded by their first launch, which must not be one that is recorded.
  launches();
  graph = std::make_unique<Graph>(model.queue, launches);
}

void DecodeSteps::attend(int64_t layer, int64_t columns) {
  launchAttention(
      model.queue.stream(),
      {q_.read(), attended_.global(), static_cast<int>(model.heads), static_cast<int>(model.kvHeads),
       static_cast<int>(model.headDim), static_cast<int>(model.layers[static_cast<size_t>(layer)].window),
       rows_.read(), static_cast<int>(layer), parts_.global(), counters_.global(), 0},
      static_cast<int>(columns), static_cast<int>(length_), how.dependent);
}

void DecodeSteps::headOf(const Buffer<float>& from, const std::vector<int64_t>& rows) {
  const auto hidden = static_cast<size_t>(model.hidden);
  for (size_t i = 0; i < rows.size(); ++i) {
    model.queue.move<float>({from, static_cast<size_t>(rows[i]) * hidden}, hidden, {x_, i * hidden}, hidden,
                            hidden);
  }
  norm(nullptr, model.finalNorm, static_cast<int64_t>(rows.size()));
  multiplyHead(static_cast<int64_t>(rows.size()));
}

void DecodeSteps::multiplyHead(int64_t columns) {
  const RowWeights& head = model.headRows();
  launch(planRows(head, logits_.global()), head.dtype, normed_.read(), columns);
}

}  // namespace flrc::gpu
