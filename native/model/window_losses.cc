#include "model/window_losses.h"

#include <algorithm>
#include <atomic>
#include <numeric>

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

// Token windows of one length, passed layer by layer: a group of them at a time, side by side.
class WindowPass {
 public:
  // Hidden states of a group, by window [seqLen, hidden].
  using States = std::vector<std::vector<float>>;
  struct Group {
    int64_t first, count;
  };

  WindowPass(const Model& model, const std::vector<int32_t>& tokens, int64_t seqLen, const Job& job)
      : tokens_(tokens), seqLen_(seqLen), job_(job) {
    if (seqLen < 2 || tokens.empty() || static_cast<int64_t>(tokens.size()) % seqLen != 0) {
      throw Error(code::internal, "windows must be whole and of at least 2 tokens");
    }
    model.checkTokens(tokens.data(), static_cast<int64_t>(tokens.size()));
    rope_.grow(model.config, seqLen);
  }

  int64_t windows() const { return static_cast<int64_t>(tokens_.size()) / seqLen_; }

  std::vector<Group> groups() const {
    const int64_t most = std::max<int64_t>(1, kGroupTokens / seqLen_);
    std::vector<Group> groups;
    for (int64_t first = 0; first < windows(); first += most) {
      groups.push_back({first, std::min(most, windows() - first)});
    }
    return groups;
  }

  States embed(const Model& model, const Group& group) const {
    States states(static_cast<size_t>(group.count));
    pool_.parallelFor(group.count, model.threads, [&](int64_t w) {
      auto& x = states[static_cast<size_t>(w)];
      x.resize(static_cast<size_t>(seqLen_ * model.config.hidden));
      model.embed(tokensOf(group, w), seqLen_, x.data());
    });
    return states;
  }

  // `to` receives what the layer makes of `from`, which it may be. Calls onWindow() after each window.
  template <typename OnWindow>
  void pass(const Model& model, int64_t layer, int64_t level, const States& from, States& to,
            const OnWindow& onWindow) {
    const WideLayer wide = widen(model, layer, level);
    to.resize(from.size());
    pool_.parallelFor(static_cast<int64_t>(from.size()), model.threads, [&](int64_t w) {
      job_.check();
      auto work = scratch_.take();
      const auto& x = from[static_cast<size_t>(w)];
      work->y.resize(x.size());
      layerForward(model.config, wide, rope_, seqLen_, x.data(), work->kept, work->y.data());
      to[static_cast<size_t>(w)].swap(work->y);
      onWindow();
    });
  }

  // Final norm, head and loss: losses[first..] of the group's windows.
  template <typename OnWindow>
  void losses(const Model& model, const Group& group, const States& states, double* losses,
              const OnWindow& onWindow) const {
    const HeadPass head(model);
    pool_.parallelFor(group.count, model.threads, [&](int64_t w) {
      losses[group.first + w] =
          head.loss(states[static_cast<size_t>(w)].data(), tokensOf(group, w), seqLen_, job_);
      onWindow();
    });
  }

 private:
  const int32_t* tokensOf(const Group& group, int64_t window) const {
    return tokens_.data() + (group.first + window) * seqLen_;
  }

  const std::vector<int32_t>& tokens_;
  const int64_t seqLen_;
  const Job& job_;
  ThreadPool& pool_ = ThreadPool::shared();
  RopeTable rope_;
  Recycled<Scratch> scratch_;
};

}  // namespace

std::vector<double> windowLosses(const Model& model, const std::vector<int32_t>& tokens, int64_t seqLen,
                                 int64_t level, const Job& job) {
  model.checkLevel(level);
  WindowPass pass(model, tokens, seqLen, job);
  std::vector<double> losses(static_cast<size_t>(pass.windows()));
  std::atomic<int64_t> done{0};
  const int64_t steps = pass.windows() * (model.config.layers + 1);
  const auto report = [&] { job.report("evaluate", done.fetch_add(1) + 1, steps); };
  for (const auto& group : pass.groups()) {
    WindowPass::States states = pass.embed(model, group);
    for (int64_t l = 0; l < model.config.layers; ++l) pass.pass(model, l, level, states, states, report);
    pass.losses(model, group, states, losses.data(), report);
  }
  return losses;
}

std::vector<double> variantLosses(const Model& model, int64_t layer, int64_t count, const ModelVariant& variant,
                                  const std::vector<int32_t>& tokens, int64_t seqLen, const Job& job) {
  WindowPass pass(model, tokens, seqLen, job);
  const std::vector<WindowPass::Group> groups = pass.groups();
  const int64_t layers = model.config.layers;
  std::vector<double> sums(static_cast<size_t>(count));
  std::vector<double> losses(static_cast<size_t>(pass.windows()));
  const auto silent = [] {};
  int64_t done = 0;
  for (const auto& group : groups) {
    WindowPass::States before = pass.embed(model, group), states;
    for (int64_t l = 0; l < layer; ++l) pass.pass(model, l, 0, before, before, silent);
    for (int64_t i = 0; i < count; ++i) {
      const std::shared_ptr<const Model> one = variant(i);
      for (int64_t l = layer; l < layers; ++l)
        pass.pass(*one, l, 0, l == layer ? before : states, states, silent);
      pass.losses(*one, group, states, losses.data(), silent);
      const double* first = losses.data() + group.first;
      sums[static_cast<size_t>(i)] += std::accumulate(first, first + group.count, 0.0);
      job.report("evaluate", ++done, count * static_cast<int64_t>(groups.size()));
    }
  }
  return sums;
}

}  // namespace flrc
