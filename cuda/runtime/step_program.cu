#include <algorithm>
#include <utility>

#include "kernels/step_plan.h"
#include "runtime/step_program.h"
#include "runtime/steps.h"

namespace flrc::gpu {
namespace {

Buffer<uint64_t> tagged(int64_t count) {
  // Whole octets; at least one, so that there is a place to point to.
  const std::vector<uint64_t> zeros(static_cast<size_t>(wholeOctets(std::max<int64_t>(1, count))));
  return {zeros.data(), zeros.size()};
}

template <typename T>
Buffer<T> uploaded(const std::vector<T>& values) {
  return {values.data(), values.size()};
}

StepLaunch stepLaunch(const DeviceModel& model) {
  return {model.limits.multiprocessors, model.limits.sharedBytes, model.limits.dependent()};
}

// Of the widest input.
int inputWords(const DeviceModel& model) {
  int most = stepInputWords(model.hidden);
  for (const LayerWeights& layer : model.layers) {
    for (const LinearWeights& linear : layer.projections) {
      most = std::max(most, stepInputWords(linear.inputs));
      for (const BlockWeights& block : linear.blocks) {
        most = std::max({most, stepInputWords(block.rank()), stepUnitWords(block.c.dtype, block.rank())});
      }
    }
  }
  return most;
}

StepPlan::Matrix matrixOf(const RowWeights& rows) { return {rows.dtype, false, rows.cols, rows.data.read()}; }
StepPlan::Matrix matrixOf(const PanelWeights& panels) {
  return {panels.dtype, true, panels.rank, panels.data.read(), panels.scale.read(), panels.zero.read()};
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

// Others go by launches.
bool StepProgram::serves(const DeviceModel& model) {
  return model.limits.hopper && isPlain(model) &&
         stepFits(inputWords(model), static_cast<int>(model.hidden), static_cast<int>(model.headDim), 0,
                  stepLaunch(model));
}

bool StepProgram::isPlain(const DeviceModel& model) {
  const auto isUsual = [&](const LayerWeights& layer) {
    return layer.rope == model.layers.front().rope && layer.attentionOutputNorm.count() == 0;
  };
  return model.activation == Activation::silu && model.residualScale == 1 &&
         std::all_of(model.layers.begin(), model.layers.end(), isUsual);
}

bool StepProgram::fits() const {
  return together_ && stepFits(inputWords_, params_.hidden, params_.headDim, params_.gathered, how_);
}

// The plan of a model's step at a level.
class StepProgram::Writer {
 public:
  Writer(const DeviceModel& model, int64_t level, const StepBuffers& buffers, const StepPlaces& places)
      : model_(model), level_(level), buffers_(buffers), places_(places), plan_(model.limits.multiprocessors) {}

  // Whether all blocks that go on with the residual stream take part in what is made of it.
  bool together() const { return together_; }

  StepPlan write() {
    int made = 0;  // the exchange that the residual stream grows by next
    for (int64_t l = 0; l < model_.layerCount; ++l) {
      const LayerWeights& layer = model_.layers[static_cast<size_t>(l)];
      const int heads = product(normed(layer.attentionNorm, made),
                                {{kQ, &buffers_.q}, {kK, &buffers_.k}, {kV, &buffers_.v}}, l);
      const int attended = attend(layer, l, heads);
      made = product(tagged(buffers_.attended, model_.queryWidth(), attended), {{kO, &buffers_.out}}, l);
      const int gated = gatedProduct(normed(layer.mlpNorm, made), l);
      made = product(tagged(buffers_.gated, layer.intermediate(), gated), {{kDown, &buffers_.out}}, l);
    }
    const RowWeights& head = model_.headRows();
    StepPlan::Stage stage;
    StepJob job = normed(model_.finalNorm, made);
    job.input = plan_.newInput();
    job.plain = places_.logits;
    stage.add({job, matrixOf(head), head.cols, head.rows});
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

  // What a projection's outputs are made of at this level: a product of the input where it is dense; where it
  // is factored, of t, which `rows` make of the input.
  struct Made {
    std::vector<StepPlan::Part> rows, parts;
  };

  // `at`: where the projection's t begins, and then where the next one's does.
  Made makings(const LinearWeights& weights, int64_t rank, const StepJob& with, int t, int64_t& at) {
    Made made;
    if (!weights.factored) {
      made.parts = {{with, matrixOf(weights.dense), weights.inputs, weights.outputs}};
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
      last.pivots = weights.pivoted ? static_cast<int32_t>(used) : 0;
      last.places = block.gather.read();
      made.rows.push_back({first, matrixOf(block.p), weights.inputs, used});
      made.parts.push_back(
          {last, matrixOf(block.c), used, block.c.outputs, weights.pivoted ? &block.others : nullptr});
      at += tWidthOf(used);
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
      const auto outputs = [&, to = to](StepJob& job) {
        job.y = to->global();
        job.sends.y = y;
        job.bias = weights.bias.read();
      };
      if (made.parts.size() == 1) {
        StepPlan::Part& last = made.parts.front();
        outputs(last.job);
        // A dense projection of a pivoted model says that it is pivoted, too.
        if (weights.factored && weights.pivoted) {
          const BlockWeights& block = weights.blocks.front();
          outputs(made.rows.front().job);
          made.rows.front().job.places = block.pivot.read();
          last.job.places = block.rest.read();
        }
        (weights.factored ? panels : rows).add(last);
      } else {
        StepJob job = gathering(made, t);
        outputs(job);
        panels.gather(made.parts, weights.outputs, job);
      }
      for (const StepPlan::Part& part : made.rows) rows.add(part);
    }
    plan_.put(rows);
    plan_.put(panels);
    if (with.source == StepSource::normed) together_ &= plan_.allSendAfter(with.wants);
    return y;
  }

  // silu(gate) * up; returns its exchange.
  int gatedProduct(StepJob with, int64_t layer) {
    with.input = plan_.newInput();
    const int t = plan_.newExchange();
    int64_t at = 0;
    const LinearWeights &gate = weightsOf(layer, kGate), &up = weightsOf(layer, kUp);
    const Made gates = makings(gate, rankOf(layer, kGate), with, t, at),
               ups = makings(up, rankOf(layer, kUp), with, t, at);
    std::vector<StepPlan::Part> parts = gates.parts;
    parts.insert(parts.end(), ups.parts.begin(), ups.parts.end());
    StepJob job = gathering(gates, t);
    job.products = static_cast<int32_t>(parts.size());
    job.gated = 1;
    job.y = buffers_.gated.global();
    job.sends.y = plan_.newExchange();
    job.bias = gate.bias.read();
    job.gatedBias = up.bias.read();
    StepPlan::Stage rows, panels;
    for (const Made* made : {&gates, &ups}) {
      for (const StepPlan::Part& part : made->rows) rows.add(part);
    }
    panels.gather(parts, gate.outputs, job);
    plan_.put(rows);
    plan_.put(panels);
    together_ &= plan_.allSendAfter(with.wants);
    return job.sends.y;
  }

  static StepJob gathering(const Made& made, int t) {
    StepJob job{};
    job.wants = t;
    job.products = job.gates = static_cast<int32_t>(made.parts.size());
    return job;
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
  bool together_ = true;
};

namespace {

StepAttention attentionOf(const DeviceModel& model, const StepBuffers& buffers, const StepPlaces& places) {
  StepAttention to{};
  RotateParams& heads = to.of.heads;
  heads.eps = model.eps;
  heads.cosine = places.turns.cosine;
  heads.sine = places.turns.sine;
  heads.heads = static_cast<int>(model.heads);
  heads.kvHeads = static_cast<int>(model.kvHeads);
  heads.headDim = static_cast<int>(model.headDim);
  heads.pairs = places.turns.pairs;
  heads.queryScale = model.queryScale;
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
    : how_(stepLaunch(model)), inputWords_(inputWords(model)) {
  Writer writer(model, level, buffers, places);
  const StepPlan plan = writer.write();
  together_ = writer.together();
  jobs_ = uploaded(plan.jobs());
  lines_ = uploaded(plan.lines());
  firstJobs_ = uploaded(plan.firstJobs());
  firstLines_ = uploaded(plan.firstLines());
  params_.jobs = jobs_.read();
  params_.lines = lines_.read();
  params_.firstJobs = firstJobs_.read();
  params_.firstLines = firstLines_.read();
  params_.gathered = plan.gathered();
  params_.attention = attentionOf(model, buffers, places);
  params_.exchanges = plan.exchanges();
  params_.x = places.x;
  params_.hidden = static_cast<int32_t>(model.hidden);
  params_.headDim = static_cast<int32_t>(model.headDim);
  params_.eps = model.eps;
  params_.epochs = buffers.epochs.global();
}

void StepProgram::enqueue(Stream stream) const { launchStep(stream, params_, inputWords_, how_); }

uint64_t StepProgram::bytes() const {
  return jobs_.bytes() + lines_.bytes() + firstJobs_.bytes() + firstLines_.bytes();
}

}  // namespace flrc::gpu
