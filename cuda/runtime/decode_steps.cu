#include <cstring>

#include "kernels/attention.h"
#include "runtime/decode_steps.h"
#include "runtime/failure.h"
#include "runtime/notes.h"

namespace flrc::gpu {

DecodeSteps::DecodeSteps(DeviceModel& of) : Steps(of, kBackendRows) {
  logits_ = Buffer<float>(static_cast<size_t>(kBackendRows * model.vocab));
}

uint64_t DecodeSteps::bytes() const {
  uint64_t total = Steps::bytes() + logits_.bytes() + parts_.bytes() + counters_.bytes();
  if (buffers_) total += buffers_->bytes();
  for (const auto& [level, program] : programs_) total += program.bytes();
  return total;
}

void DecodeSteps::reserve(int64_t positions) {
  if (positions <= roomFor_) return;
  // What was recorded knows the old buffers.
  model.queue.synchronise();
  graphs_.clear();
  programs_.clear();
  buffers_.reset();
  Steps::reserve(positions);
  const int chunks = attentionChunks(static_cast<int>(positions), 0);
  parts_ =
      Buffer<float>(static_cast<size_t>(attentionFloats(kBackendRows, model.heads, model.headDim, chunks)));
  const std::vector<uint32_t> zeros(static_cast<size_t>(attentionCounters(kBackendRows, model.heads, chunks)));
  counters_ = Buffer<uint32_t>(zeros.data(), zeros.size());
  roomFor_ = positions;
}

void DecodeSteps::replay(int64_t level, int64_t columns, int64_t positions) {
  std::unique_ptr<Graph>& graph = graphs_[{level, columns, positions}];
  if (!graph) {
    const bool single = columns == 1 && positions <= kStepPositions && StepProgram::serves(model);
    if (single && model.stepWay != StepWay::launches) {
      graph = ifItFits([&] { return recordWhole(level); });
    }
    if (!graph || model.stepWay == StepWay::faster) {
      std::unique_ptr<Graph> launches = record(level, columns, positions);
      if (!graph || !isBetter(*graph, *launches)) graph = std::move(launches);
    }
  }
  graph->replay(model.queue);
}

// A token must get the same logits alone and in a batch, which are launches' at any rate.
bool DecodeSteps::isBetter(Graph& whole, Graph& launches) {
  const auto logitsOf = [this](Graph& of) {
    of.replay(model.queue);
    std::vector<float> logits(static_cast<size_t>(model.vocab));
    model.queue.download(logits_, 0, logits.size(), logits.data());
    return logits;
  };
  const auto seconds = [this](Graph& of) { return model.queue.seconds([&] { of.replay(model.queue); }); };
  const std::vector<float> one = logitsOf(whole), many = logitsOf(launches);
  // Bits: a logit may be NaN.
  if (std::memcmp(one.data(), many.data(), one.size() * sizeof(float)) != 0) {
    note(
        "decode steps in one launch give other results on this GPU than in many and are left out, so that "
        "decoding is slower");
    return false;
  }
  return seconds(whole) <= seconds(launches);
}

std::unique_ptr<Graph> DecodeSteps::record(int64_t level, int64_t columns, int64_t positions) {
  return recorded([this, level, columns, positions] {
    length_ = positions;
    enqueue(level, columns);
    multiplyHead(columns);
  });
}

std::unique_ptr<Graph> DecodeSteps::recordWhole(int64_t level) {
  if (!buffers_) buffers_ = std::make_unique<StepBuffers>(model, roomFor_);
  const StepPlaces places{rows_.read(), x_.read(), rotations_.of(model.layers.front()), logits_.global()};
  const StepProgram& program = programs_.try_emplace(level, model, level, *buffers_, places).first->second;
  if (!program.fits()) return nullptr;
  return recorded([this, &program] {
    embed(1);
    program.enqueue(model.queue.stream());
  });
}

std::unique_ptr<Graph> DecodeSteps::recorded(const std::function<void()>& launches) {
  // Once as it is: kernels are loaded by their first launch, which must not be one that is recorded.
  launches();
  return std::make_unique<Graph>(model.queue, launches);
}

void DecodeSteps::attend(int64_t layer, const RotateParams& heads, int64_t columns) {
  const auto window = static_cast<int>(model.layers[static_cast<size_t>(layer)].window);
  launchAttention(model.queue.stream(),
                  {heads, attended_.global(), window, parts_.global(), counters_.global()},
                  static_cast<int>(columns), static_cast<int>(length_), {how.dependent, how.dependent});
}

void DecodeSteps::headOf(const Buffer<float>& from, const std::vector<int64_t>& rows) {
  const auto hidden = static_cast<size_t>(model.hidden);
  for (size_t i = 0; i < rows.size(); ++i) {
    model.queue.move<float>({from, static_cast<size_t>(rows[i]) * hidden}, hidden, {x_, i * hidden}, hidden,
                            hidden);
  }
  norm(nullptr, model.finalNorm, static_cast<int64_t>(rows.size()), how.dependent);
  multiplyHead(static_cast<int64_t>(rows.size()));
}

void DecodeSteps::multiplyHead(int64_t columns) {
  const RowWeights& head = model.headRows();
  launch(planRows(head, logits_.global()), head.dtype, normed_.read(), columns);
}

}  // namespace flrc::gpu
