#include "recover/recover.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/state_file.h"
#include "core/thread_pool.h"
#include "cpu/kernels.h"
#include "linalg/bf16_gemm.h"
#include "model/layer_pass.h"

namespace flrc {
namespace {

// Floats of one token's LayerActivations, about; latents are at most as wide as their projection.
int64_t activationWidth(const ModelConfig& config) {
  return (config.outputNorms ? 7 : 5) * config.hidden + 3 * config.queryWidth() + 4 * config.kvWidth() +
         6 * config.intermediate;
}

}  // namespace

Recovery::Recovery(std::shared_ptr<const Model> start, std::shared_ptr<const Model> teacher,
                   RecoveryOptions options, const Job& job)
    : teacher_(std::move(teacher)),
      options_(std::move(options)),
      factors_(*start, options_.dtype, job),
      taught_(std::make_shared<SpillSpace>(options_.memory / 2, options_.scratch), options_.lengths.size()) {
  const ModelConfig &mine = start->config, &theirs = teacher_->config;
  if (mine.hidden != theirs.hidden || mine.vocab != theirs.vocab || mine.layers != theirs.layers) {
    throw Error(code::internal, "the model to learn from is of another shape");
  }
  int64_t total = 0;
  int32_t longest = 0;
  for (int32_t length : options_.lengths) {
    if (length < 2) throw Error(code::internal, "a training window has fewer than 2 tokens");
    starts_.push_back(total);
    total += length;
    longest = std::max(longest, length);
  }
  if (options_.lengths.empty() || total != static_cast<int64_t>(options_.tokens.size())) {
    throw Error(code::internal, "the training windows do not add up to the tokens");
  }
  teacher_->checkTokens(options_.tokens.data(), total);
  rope_.grow(mine, longest);
  activations_.resize(static_cast<size_t>(mine.layers));
}

Recovery::Pass Recovery::pass(const std::vector<int32_t>& windows, int64_t level, bool training) const {
  factors_.frame()->checkLevel(level);
  std::vector<int32_t> sorted = windows;
  std::sort(sorted.begin(), sorted.end());
  const bool repeats = std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end();
  if (windows.empty() || repeats || sorted.front() < 0 ||
      sorted.back() >= static_cast<int32_t>(options_.lengths.size())) {
    throw Error(code::internal, "a batch must name different windows that there are");
  }
  const ModelConfig& config = teacher_->config;
  Pass pass(windows, level, training);
  pass.rounds = training && options_.dtype != Dtype::f32 && multipliesBf16();
  for (int32_t window : windows) pass.positions += length(window);
  pass.hidden.resize(windows.size());
  pass.firstKept = config.layers;
  if (!training) return pass;
  pass.boundaries.assign(static_cast<size_t>(config.layers), std::vector<std::vector<float>>(windows.size()));
  const int64_t layerBytes = pass.positions * activationWidth(config) * static_cast<int64_t>(sizeof(float));
  pass.firstKept = std::max<int64_t>(0, config.layers - options_.memory / 2 / layerBytes);
  return pass;
}

template <typename Body>
void Recovery::eachWindow(const std::vector<int32_t>& windows, const Job& job, const Body& body) const {
  const auto count = static_cast<int64_t>(windows.size());
  ThreadPool::shared().parallelFor(count, teacher_->threads, [&](int64_t i) {
    job.check();
    body(static_cast<size_t>(i), windows[static_cast<size_t>(i)]);
  });
}

void Recovery::teach(const std::vector<int32_t>& windows, bool rounds, const Job& job) {
  std::vector<int32_t> wanted;
  for (int32_t window : windows) {
    if (taught_.count(static_cast<size_t>(window)) == 0) wanted.push_back(window);
  }
  const ModelConfig& config = teacher_->config;
  const int64_t d = config.hidden;
  std::vector<std::vector<float>> hidden(wanted.size());
  Recycled<std::vector<float>> outputs;
  for (int64_t l = 0; l < config.layers && !wanted.empty(); ++l) {
    WideLayer layer = flrc::widen(*teacher_, l, 0);
    if (rounds) layer = roundedToBf16(layer, teacher_->threads);
    eachWindow(wanted, job, [&](size_t i, int32_t window) {
      auto& x = hidden[i];
      if (l == 0) {
        x.resize(static_cast<size_t>(length(window) * d));
        teacher_->embed(tokens(window), length(window), x.data());
      }
      auto y = outputs.take();
      auto kept = recomputed_.take();
      y->resize(x.size());
      layerForward(config, layer, rope_, length(window), x.data(), *kept, y->data());
      x.swap(*y);
    });
  }
  const std::vector<float>& norm = *teacher_->headNorm;
  for (size_t i = 0; i < wanted.size(); ++i) {
    float* x = hidden[i].data();
    for (int64_t t = 0; t < length(wanted[i]); ++t, x += d) {
      cpu::kernels().rmsNorm(x, norm.data(), config.eps, d, x);
    }
    taught_.put(static_cast<size_t>(wanted[i]), hidden[i].data(), hidden[i].size());
  }
}

void Recovery::forward(Pass& pass, const Job& job) {
  const ModelConfig& config = teacher_->config;
  for (int64_t l = 0; l < config.layers; ++l) {
    const WideLayer layer = factors_.widen(l, pass.level, pass.rounds);
    auto& activations = activations_[static_cast<size_t>(l)];
    const bool keeps = l >= pass.firstKept;
    if (keeps && activations.size() < pass.windows.size()) activations.resize(pass.windows.size());
    eachWindow(pass.windows, job, [&](size_t i, int32_t window) {
      std::vector<float>& x = pass.hidden[i];
      if (l == 0) {
        x.resize(static_cast<size_t>(length(window) * config.hidden));
        factors_.frame()->embed(tokens(window), length(window), x.data());
      }
      std::vector<float> y(x.size());
      auto scratch = recomputed_.take();
      layerForward(config, layer, rope_, length(window), x.data(), keeps ? activations[i] : *scratch, y.data());
      x.swap(y);
      if (pass.training) pass.boundaries[static_cast<size_t>(l)][i].swap(y);
    });
  }
}

RecoveryFigures Recovery::head(Pass& pass, const Job& job) const {
  const float scale = 1.0f / static_cast<float>(pass.positions);
  std::vector<DistilSums> sums(pass.windows.size());
  eachWindow(pass.windows, job, [&](size_t i, int32_t window) {
    std::vector<float> scratch, dx(pass.training ? pass.hidden[i].size() : 0);
    const float* taught = taught_.get(static_cast<size_t>(window), scratch);
    sums[i] = distil(*factors_.frame(), *teacher_->head, pass.hidden[i].data(), taught, tokens(window),
                     length(window), scale, pass.rounds, job, pass.training ? dx.data() : nullptr);
    pass.hidden[i].swap(dx);
  });
  DistilSums all;
  for (const DistilSums& of : sums) {
    all.kl += of.kl;
    all.loss += of.loss;
  }
  const auto positions = static_cast<double>(pass.positions);
  return {all.kl / positions, all.loss / (positions - static_cast<double>(pass.windows.size())), 0};
}

void Recovery::backward(Pass& pass, const Job& job) {
  const ModelConfig& config = teacher_->config;
  const size_t count = pass.windows.size();
  if (gradients_.size() < count) gradients_.resize(count);
  // Where activations are not kept, those of the layer at hand are computed again into these.
  std::vector<LayerActivations> again(count);
  for (int64_t l = config.layers - 1; l >= 0; --l) {
    const WideLayer layer = factors_.widen(l, pass.level, pass.rounds);
    const bool keeps = l >= pass.firstKept;
    std::vector<LayerTrace> traces(count);
    eachWindow(pass.windows, job, [&](size_t i, int32_t window) {
      const std::vector<float>& x = pass.boundaries[static_cast<size_t>(l)][i];
      LayerActivations& kept = keeps ? activations_[static_cast<size_t>(l)][i] : again[i];
      std::vector<float> dx(x.size());
      // The output is of no use, but the latent of down is made on the way to it.
      if (!keeps) layerForward(config, layer, rope_, length(window), x.data(), kept, dx.data());
      layerBackward(config, layer, rope_, length(window), x.data(), kept, pass.hidden[i].data(), gradients_[i],
                    dx.data());
      pass.hidden[i].swap(dx);
      traces[i] = {&kept, &gradients_[i], length(window)};
    });
    factors_.gradients(l, layer, traces, pass.rounds, job);
  }
}

RecoveryFigures Recovery::step(const RecoveryStep& step, const Job& job) {
  std::lock_guard<std::mutex> lock(mutex_);
  Pass pass = this->pass(step.windows, step.level, true);
  teach(step.windows, pass.rounds, job);
  forward(pass, job);
  RecoveryFigures figures = head(pass, job);
  backward(pass, job);
  job.check();
  const double change = factors_.gather(step.level, step.betas);
  if (!std::isfinite(change)) {
    throw Error(code::numeric,
                "recovery diverged: the gradient is not finite; compress without it, or with a larger --keep");
  }
  const double allowed = std::max(0.0, step.change * figures.kl);
  figures.rate = change * step.rate > allowed ? allowed / change : step.rate;
  factors_.apply(step.level, step.betas, figures.rate);
  return figures;
}

RecoveryFigures Recovery::evaluate(const std::vector<int32_t>& windows, int64_t level, const Job& job) {
  std::lock_guard<std::mutex> lock(mutex_);
  Pass pass = this->pass(windows, level, false);
  teach(windows, pass.rounds, job);
  forward(pass, job);
  return head(pass, job);
}

void Recovery::keep() {
  std::lock_guard<std::mutex> lock(mutex_);
  kept_ = factors_.values();
}

std::shared_ptr<const Model> Recovery::finish(const Job& job) {
  std::lock_guard<std::mutex> lock(mutex_);
  return factors_.model(kept_.empty() ? factors_.values() : kept_, job);
}

void Recovery::save(const std::string& file, const std::string& note, const Job& job) {
  std::lock_guard<std::mutex> lock(mutex_);
  StateWriter to(file, note, job);
  factors_.visitState([&](void* data, size_t bytes) { to.write(data, bytes); });
  to.write(kept_.data(), kept_.size() * sizeof(float));
  to.finish();
}

std::string Recovery::load(const std::string& file, const Job& job) {
  std::lock_guard<std::mutex> lock(mutex_);
  StateReader from(file, job);
  size_t state = 0;
  factors_.visitState([&](void*, size_t bytes) { state += bytes; });
  const size_t values = factors_.values().size() * sizeof(float);
  const bool hasKept = from.remaining() == state + values;
  if (!hasKept && from.remaining() != state) from.refuse();
  factors_.visitState([&](void* data, size_t bytes) { from.read(data, bytes); });
  kept_.resize(hasKept ? values / sizeof(float) : 0);
  from.read(kept_.data(), kept_.size() * sizeof(float));
  from.finish();
  return from.note();
}

}  // namespace flrc
