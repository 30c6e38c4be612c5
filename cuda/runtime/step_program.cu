#include <algorithm>
#include <utility>

#include "kernels/step_plan.h"
#include "runtime/step_program.h"
#include "runtime/steps.h"

namespace flrc::gpu {
namespace {

enum : int { kQ, kK, kV, kO, kGate, kUp, kDown };

Buffer<uint64_t> tagged(int64_t count) {
  // At least one, so that there is a place to point to.
  const std::vector<uint64_t> zeros(static_cast<size_t>(std::max<int64_t>(1, count)));
  return {zeros.data(), zeros.size()};
}

template <typename T>
Buffer<T> uploaded(const std::vector<T>& values) {
  return {values.data(), values.size()};
}

StepLaunch stepLaunch(const DeviceModel& model) {
  return {model.limits.multiprocessors, model.limits.sharedBytes, model.limits.hopper};
}

int widestInput(const DeviceModel& model) {
  int64_t widest = model.hidden;
  for (const LayerWeights& layer : model.layers) {
    for (const LinearWeights& linear : layer.projections) {
      widest = std::max(widest, linear.inputs);
      for (const BlockWeights& block : linear.blocks) widest = std::max(widest, block.rank());
    }
  }
  return static_cast<int>(widest);
}

}  // namespace

StepBuffers::StepBuffers(const DeviceModel& model, int64_t positions)
    : chunks(attentionChunks(static_cast<int>(std::min<int64_t>(positions, kStepPositions)), 0)),
      q(tagged(model.queryWidth())),
      k(tagged(model.kvWidth())),
      v(tagged(model.kvWidth())),
      attended(tagged(model.queryWidth())),
      out(tagged(model.hidden)),
      gated(tagged(model.intermediate)),
      sums(tagged(model.queryWidth() * chunks)),
      scales(tagged(2 * model.heads * chunks)) {
  t = tagged(widest(model).t);
  const std::vector<uint32_t> none(static_cast<size_t>(model.limits.multiprocessors));
  epochs = uploaded(none);
}

uint64_t StepBuffers::bytes() const {
  uint64_t total = epochs.bytes();
  for (const Buffer<uint64_t>* buffer : {&q, &k, &v, &attended, &out, &gated, &t, &sums, &scales}) {
    total += buffer->bytes();
  }
  return total;
}

bool StepProgram::serves(const DeviceModel& model) {
  if (!model.limits.hopper || model.headRows().dtype != Dtype::bf16) return false;
  for (const LayerWeights& layer : model.layers) {
    for (const LinearWeights& linear : layer.projections) {
      if (linear.dtype() != Dtype::bf16) return false;
    }
  }
  return stepFits(widestInput(model), static_cast<int>(model.hidden), static_cast<int>(model.headDim), 0,
                  stepLaunch(model));
}

bool StepProgram::fits() const {
  return stepFits(width_, params_.hidden, params_.headDim, params_.gathered, how_);
}

// The plan of a model's step at a level.
class StepProgram::Writer {
 public:
  Writer(const DeviceModel& model, int64_t level, const StepBuffers& buffers, const StepPlaces& places)
      : model_(model), level_(level), buffers_(buffers), places_(places), plan_(model.limits.multiprocessors) {}

  StepPlan write() {
    int made = 0;  // the exchange that the residual stream grows by next
    for (int64_t l = 0; l < model_.layerCount; ++l) {
      const LayerWeights& layer = model_.layers[static_cast<size_t>(l)];
      const int heads = product(normed(layer.attentionNorm, made),
                                {{kQ, &buffers_.q}, {kK, &buffers_.k}, {kV, &buffers_.v}}, l);
      const int attended = attend(layer, l, heads);
      made = product(tagged(buffers_.attended, model_.queryWidth(), attended), {{kO, &buffers_.out}}, l);
      const int gated = gatedProduct(normed(layer.mlpNorm, made), l);
      made = product(tagged(buffers_.gated, model_.intermediate, gated), {{kDown, &buffers_.out}}, l);
    }
    const RowWeights& head = model_.headRows();
    StepPlan::Stage stage;
    StepJob job = normed(model_.finalNorm, made);
    job.input = plan_.newInput();
    job.plain = places_.logits;
    stage.add({job, head.data.read(), head.cols, head.cols, head.rows});
    plan_.put(stage);
    return std::move(plan_);
  }

 private:
  struct Projected {
    int projection;
    const Buffer<uint64_t>* y;
  };

  StepJob input(StepSource source, int64_t width, int wants) const {
    StepJob job{};
    job.source = source;
    job.width = static_cast<int>(width);
    job.wants = wants;
    return job;
  }
  StepJob tagged(const Buffer<uint64_t>& from, int64_t width, int wants) const {
    StepJob job = input(StepSource::tagged, width, wants);
    job.from = from.read();
    return job;
  }
  // `made`: the exchange of what is added to the residual stream, 0: nothing is.
  StepJob normed(const Buffer<float>& norm, int made) const {
    StepJob job = input(StepSource::normed, model_.hidden, made);
    if (made > 0) job.from = buffers_.out.read();
    job.norm = norm.read();
    return job;
  }

  // What a projection's outputs are made of at this level.
  struct Made {
    std::vector<StepPlan::Part> rows;   // that make t of the input, where the projection is factored
    std::vector<StepPlan::Part> parts;  // of the input where it is dense, of t where not
    std::vector<const std::vector<int32_t>*> rests;
    std::vector<StepGather::Product> products;
  };

  // `at`: where the projection's t begins, and then where the next one's does.
  Made makings(const LinearWeights& weights, int64_t rank, const StepJob& with, int t, int64_t& at) {
    Made made;
    if (!weights.factored) {
      made.parts = {{with, weights.dense.data.read(), weights.inputs, weights.inputs, weights.outputs}};
      made.rests = {nullptr};
      made.products = {{nullptr, nullptr, 0}};
      return made;
    }
    for (int64_t b = 0; b < weights.blocksFor(rank); ++b) {
      const BlockWeights& block = weights.blocks[static_cast<size_t>(b)];
      const int64_t used = weights.pivoted ? block.rank() : std::min(rank, block.rank());
      StepJob first = with;
      first.t = buffers_.t.global() + at;
      first.sends.t = t;
      StepJob last = input(StepSource::tagged, used, t);
      last.from = buffers_.t.read() + at;
      last.input = plan_.newInput();
      made.rows.push_back({first, block.p.data.read(), weights.inputs, weights.inputs, used});
      made.parts.push_back({last, block.c.data.read(), used, block.c.rank, block.c.outputs});
      made.rests.push_back(weights.pivoted ? &block.others : nullptr);
      made.products.push_back(
          {block.gather.read(), buffers_.t.read() + at, weights.pivoted ? static_cast<int32_t>(used) : 0});
      at += (used + kTAlign - 1) / kTAlign * kTAlign;
    }
    return made;
  }

  const LinearWeights& weightsOf(int64_t layer, int projection) const {
    return model_.layers[static_cast<size_t>(layer)].projections[static_cast<size_t>(projection)];
  }
  int64_t rankOf(int64_t layer, int projection) const { return model_.rank(level_, layer, projection); }

  // Projections of one input; returns the exchange of their outputs.
  int product(StepJob with, const std::vector<Projected>& projections, int64_t layer) {
    with.input = plan_.newInput();
    const int t = plan_.newExchange(), y = plan_.newExchange();
    StepPlan::Stage rows, panels;
    int64_t at = 0;
    for (const auto& [projection, to] : projections) {
      const LinearWeights& weights = weightsOf(layer, projection);
      Made made = makings(weights, rankOf(layer, projection), with, t, at);
      const auto outputs = [&, to = to](StepPlan::Part& part, const Buffer<int32_t>& scatter) {
        part.job.y = to->global();
        part.job.sends.y = y;
        part.job.scatter = scatter.read();
        part.job.bias = weights.bias.read();
      };
      if (!weights.factored) {
        outputs(made.parts[0], {});
        rows.add(made.parts[0]);
        continue;
      }
      if (made.parts.size() == 1) {
        const BlockWeights& block = weights.blocks.front();
        if (weights.pivoted) outputs(made.rows[0], block.pivot);
        outputs(made.parts[0], block.rest);
        panels.add(made.parts[0]);
      } else {
        StepGather gather{};
        gather.y = to->global();
        gather.bias = weights.bias.read();
        gather.gates = static_cast<int32_t>(made.products.size());
        put(made, weights.outputs, t, y, gather, panels);
      }
      for (const StepPlan::Part& part : made.rows) rows.add(part);
    }
    plan_.put(rows);
    plan_.put(panels);
    return y;
  }

  // silu(gate) * up; returns its exchange.
  int gatedProduct(StepJob with, int64_t layer) {
    with.input = plan_.newInput();
    const int t = plan_.newExchange(), y = plan_.newExchange();
    int64_t at = 0;
    Made made = makings(weightsOf(layer, kGate), rankOf(layer, kGate), with, t, at);
    StepGather gather{};
    gather.y = buffers_.gated.global();
    gather.bias = weightsOf(layer, kGate).bias.read();
    gather.gatedBias = weightsOf(layer, kUp).bias.read();
    gather.gates = static_cast<int32_t>(made.products.size());
    const Made up = makings(weightsOf(layer, kUp), rankOf(layer, kUp), with, t, at);
    const auto append = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
    append(made.rows, up.rows);
    append(made.parts, up.parts);
    append(made.rests, up.rests);
    append(made.products, up.products);
    gather.gated = 1;
    StepPlan::Stage rows, panels;
    for (const StepPlan::Part& part : made.rows) rows.add(part);
    put(made, model_.intermediate, t, y, gather, panels);
    plan_.put(rows);
    plan_.put(panels);
    return y;
  }

  static void put(const Made& made, int64_t outputs, int t, int y, StepGather gather, StepPlan::Stage& to) {
    gather.products = static_cast<int32_t>(made.products.size());
    std::copy(made.products.begin(), made.products.end(), gather.product);
    StepJob job{};
    job.wants = t;
    job.sends.y = y;
    to.add(made.parts, made.rests, outputs, job, gather);
  }

  int attend(const LayerWeights& layer, int64_t index, int wants) {
    StepJob job{};
    job.which = static_cast<int32_t>(index);
    job.width = static_cast<int32_t>(layer.window);
    job.wants = wants;
    job.norm = layer.queryNorm.read();
    job.keyNorm = layer.keyNorm.read();
    return plan_.attend(job);
  }

  const DeviceModel& model_;
  const int64_t level_;
  const StepBuffers& buffers_;
  const StepPlaces& places_;
  StepPlan plan_;
};

namespace {

StepAttention attentionOf(const DeviceModel& model, const StepBuffers& buffers, const StepPlaces& places) {
  StepAttention to{};
  RotateParams& heads = to.of.heads;
  heads.eps = model.eps;
  heads.cosine = places.cosine;
  heads.sine = places.sine;
  heads.heads = static_cast<int>(model.heads);
  heads.kvHeads = static_cast<int>(model.kvHeads);
  heads.headDim = static_cast<int>(model.headDim);
  heads.rows = places.rows;
  to.of.columns = 1;
  shapeAttention(to.of);
  to.q = buffers.q.read();
  to.k = buffers.k.read();
  to.v = buffers.v.read();
  to.sums = buffers.sums.global();
  to.scales = buffers.scales.global();
  to.chunks = buffers.chunks;
  to.out = buffers.attended.global();
  return to;
}

}  // namespace

StepProgram::StepProgram(const DeviceModel& model, int64_t level, const StepBuffers& buffers,
                         const StepPlaces& places)
    : how_(stepLaunch(model)), width_(widestInput(model)) {
  const StepPlan plan = Writer(model, level, buffers, places).write();
  jobs_ = uploaded(plan.jobs());
  lines_ = uploaded(plan.lines());
  shares_ = uploaded(plan.shares());
  gatherShares_ = uploaded(plan.gatherShares());
  std::vector<StepGather> gathers = plan.gathers();
  for (size_t i = 0; i < gathers.size(); ++i) {
    gathers[i].shares = gatherShares_.read() + static_cast<int64_t>(i) * (how_.blocks + 1);
  }
  gathers_ = uploaded(gathers);
  params_.gathered = plan.gathered();
  params_.jobs = jobs_.read();
  params_.lines = lines_.read();
  params_.shares = shares_.read();
  params_.attention = attentionOf(model, buffers, places);
  params_.gathers = gathers_.read();
  params_.jobCount = static_cast<int32_t>(plan.jobs().size());
  params_.lineCount = static_cast<int32_t>(plan.lines().size());
  params_.exchanges = plan.exchanges();
  params_.x = places.x;
  params_.hidden = static_cast<int32_t>(model.hidden);
  params_.headDim = static_cast<int32_t>(model.headDim);
  params_.eps = model.eps;
  params_.epochs = buffers.epochs.global();
}

void StepProgram::enqueue(Stream stream) const { launchStep(stream, params_, width_, how_); }

uint64_t StepProgram::bytes() const {
  return jobs_.bytes() + lines_.bytes() + shares_.bytes() + gatherShares_.bytes() + gathers_.bytes();
}

}  // namespace flrc::gpu
