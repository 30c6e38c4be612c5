#include "model/window_losses.h"

#include <algorithm>
#include <atomic>

#include "core/error.h"
#include "core/recycled.h"
#include "core/thread_pool.h"
#include "model/head_pass.h"
#include "model/layer_pass.h"
#include "model/wide_layer.h"

namespace flrc {
namespace {

// Tokens whose hidden states are held at once; a group is at least one window.
constexpr int64_t kGroupTokens = 32 * 1024;

struct Scratch {
  LayerActivations kept;
  std::vector<float> y;
};

}  // namespace

std::vector<double> windowLosses(const Model& model, const std::vector<int32_t>& tokens, int64_t seqLen,
                                 int64_t level, const Job& job) {
  const ModelConfig& config = model.config;
  if (seqLen < 2 || tokens.empty() || static_cast<int64_t>(tokens.size()) % seqLen != 0) {
    throw Error(code::internal, "windows must be whole and of at least 2 tokens");
  }
  model.checkLevel(level);
  model.checkTokens(tokens.data(), static_cast<int64_t>(tokens.size()));
  ThreadPool& pool = ThreadPool::shared();
  const HeadPass head(model);
  RopeTable rope;
  rope.grow(config, seqLen);
  const auto windows = static_cast<int64_t>(tokens.size()) / seqLen;
  const int64_t group = std::max<int64_t>(1, kGroupTokens / seqLen);
  const int64_t d = config.hidden;
  std::vector<double> losses(static_cast<size_t>(windows));
  Recycled<Scratch> scratch;
  std::atomic<int64_t> done{0};
  const int64_t steps = windows * (config.layers + 1);

  for (int64_t first = 0; first < windows; first += group) {
    const int64_t count = std::min(group, windows - first);
    std::vector<std::vector<float>> hidden(static_cast<size_t>(count));
    pool.parallelFor(count, model.threads, [&](int64_t w) {
      auto& x = hidden[static_cast<size_t>(w)];
      x.resize(static_cast<size_t>(seqLen * d));
      model.embed(tokens.data() + (first + w) * seqLen, seqLen, x.data());
    });
    for (int64_t l = 0; l < config.layers; ++l) {
      const WideLayer layer = widen(model, l, level);
      pool.parallelFor(count, model.threads, [&](int64_t w) {
        job.check();
        auto work = scratch.take();
        work->y.resize(static_cast<size_t>(seqLen * d));
        layerForward(config, layer, rope, seqLen, hidden[static_cast<size_t>(w)].data(), work->kept,
                     work->y.data());
        hidden[static_cast<size_t>(w)].swap(work->y);
        job.report("evaluate", done.fetch_add(1) + 1, steps);
      });
    }
    pool.parallelFor(count, model.threads, [&](int64_t w) {
      losses[static_cast<size_t>(first + w)] =
          head.loss(hidden[static_cast<size_t>(w)].data(), tokens.data() + (first + w) * seqLen, seqLen, job);
      job.report("evaluate", done.fetch_add(1) + 1, steps);
    });
  }
  return losses;
}

}  // namespace flrc
