#include <algorithm>

#include "kernels/attention.h"
#include "kernels/calibrate.h"
#include "runtime/notes.h"
#include "runtime/prefill_steps.h"

namespace flrc::gpu {
namespace {

// Rows of bf16 activations begin at multiples of 16 bytes.

// Products are of a multiple of so many tokens: those of each number have plans of their own, which take long
// to make and are kept. What comes of the tokens beyond the last one nobody reads.
constexpr int64_t kPiece = 64;

int64_t wholePieces(int64_t columns) { return (columns + kPiece - 1) / kPiece * kPiece; }

// Of any one projection, in values a token.
struct Most {
  int64_t inputs = 1, t = 1, u = 1;
};

Most mostOf(const DeviceModel& model) {
  Most most;
  for (const LayerWeights& layer : model.layers) {
    for (const LinearWeights& linear : layer.projections) {
      int64_t t = 0, u = 0;
      for (const BlockWeights& block : linear.blocks) {
        t += block.rank();
        u += block.c.outputs;
      }
      most.inputs = std::max(most.inputs, wholeOctets(linear.inputs));
      most.t = std::max(most.t, wholeOctets(t));
      most.u = std::max(most.u, u);
    }
  }
  return most;
}

}  // namespace

PrefillSteps::PrefillSteps(DeviceModel& of, int64_t columns) : Steps(of, wholePieces(columns)) {
  if (!gemm_.missing().empty()) return;
  const Most most = mostOf(model);
  const auto count = [this](int64_t width) { return static_cast<size_t>(Steps::columns() * width); };
  input_ = Buffer<uint16_t>(count(most.inputs));
  model.queue.clear(input_);
  latent_ = Buffer<uint16_t>(count(most.t));
  remainder_ = Buffer<uint16_t>(count(std::max(most.inputs, most.t)));
  t_ = Buffer<float>(count(most.t));
  u_ = Buffer<float>(count(most.u));
}

void PrefillSteps::attend(int64_t layer, const RotateParams& heads, int64_t columns) {
  launchRotate(model.queue.stream(), heads, static_cast<int>(columns), how.dependent);
  const int64_t at = layer * sequence_->capacity * model.kvWidth();
  launchPrefillAttention(
      model.queue.stream(),
      {q_.read(), attended_.global(), static_cast<int>(model.heads), static_cast<int>(model.kvHeads),
       static_cast<int>(model.headDim), static_cast<int>(model.layers[static_cast<size_t>(layer)].window),
       sequence_->keys.read() + at, sequence_->values.read() + at, static_cast<int>(position_),
       static_cast<int>(columns)});
}

void PrefillSteps::multiply(const std::vector<PlannedLinear>& linears, Global<const float> x, int64_t columns) {
  const LinearWeights& any = *linears.front().weights;
  if (any.dtype() != Dtype::bf16 || !gemm_.missing().empty()) return Steps::multiply(linears, x, columns);
  round(x, any.inputs, columns, input_);
  for (const PlannedLinear& linear : linears) {
    try {
      multiply(linear, wholePieces(columns));
    } catch (const Unserved&) {
      note("cuBLAS has no algorithm for some products of prompts, which take longer without it");
      Steps::multiply({linear}, x, columns);
    }
  }
}

void PrefillSteps::multiply(const PlannedLinear& linear, int64_t columns) {
  if (!linear.weights->factored) return multiplyDense(linear, columns);
  if (linear.weights->pivoted) return multiplyPivoted(linear, columns);
  multiplyPlain(linear, columns);
}

void PrefillSteps::round(Global<const float> x, int64_t width, int64_t columns, Buffer<uint16_t>& to) {
  launchSplit(model.queue.stream(), {x, static_cast<int>(columns), static_cast<int>(width), wholeOctets(width),
                                     to.global(), remainder_.global()});
}

void PrefillSteps::multiplyDense(const PlannedLinear& linear, int64_t columns) {
  const LinearWeights& weights = *linear.weights;
  const bool biased = weights.bias.count() > 0;
  if (biased) gather(linear, 0, columns, {});
  gemm_.multiply(model.queue, {input_.read(), viewAs<uint16_t>(weights.dense.data), linear.y, columns,
                               weights.inputs, weights.outputs, wholeOctets(weights.inputs),
                               lineWeights(weights.dense.dtype, weights.inputs), weights.outputs, biased});
}

void PrefillSteps::multiplyPlain(const PlannedLinear& linear, int64_t columns) {
  const LinearWeights& weights = *linear.weights;
  const bool biased = weights.bias.count() > 0;
  if (biased || linear.rank == 0) gather(linear, 0, columns, {});
  if (linear.rank == 0) return;
  const BlockWeights& block = weights.blocks.front();
  const int64_t rank = std::min(linear.rank, block.rank());
  project(block.p, rank, 0, rank, columns);
  round(t_.read(), rank, columns, latent_);
  expand(block.c, rank, 0, wholeOctets(rank), linear.y, weights.outputs, biased, columns);
}

void PrefillSteps::multiplyPivoted(const PlannedLinear& linear, int64_t columns) {
  const LinearWeights& weights = *linear.weights;
  const int64_t blocks = weights.blocksFor(linear.rank);
  Widths widths, at;
  for (int64_t b = 0; b < blocks; ++b) {
    const BlockWeights& block = weights.blocks[static_cast<size_t>(b)];
    widths.t += block.rank();
    widths.u += block.c.outputs;
  }
  for (int64_t b = 0; b < blocks; ++b) {
    const BlockWeights& block = weights.blocks[static_cast<size_t>(b)];
    project(block.p, block.rank(), at.t, widths.t, columns);
    at.t += block.rank();
  }
  if (blocks > 0) round(t_.read(), widths.t, columns, latent_);
  at = {};
  for (int64_t b = 0; b < blocks; ++b) {
    const BlockWeights& block = weights.blocks[static_cast<size_t>(b)];
    expand(block.c, block.rank(), at.t, wholeOctets(widths.t), u_.global() + at.u, widths.u, false, columns);
    at.t += block.rank();
    at.u += block.c.outputs;
  }
  gather(linear, blocks, columns, widths);
}

void PrefillSteps::project(const RowWeights& rows, int64_t rank, int64_t t, int64_t tWidth, int64_t columns) {
  gemm_.multiply(model.queue,
                 {input_.read(), viewAs<uint16_t>(rows.data), t_.global() + t, columns, rows.cols, rank,
                  wholeOctets(rows.cols), lineWeights(rows.dtype, rows.cols), tWidth, false});
}

void PrefillSteps::expand(const PanelWeights& panels, int64_t rank, int64_t t, int64_t ldt, Global<float> y,
                          int64_t ldy, bool add, int64_t columns) {
  // A block of all ranks has nothing but pivots.
  if (panels.outputs == 0) return;
  gemm_.multiply(model.queue, {latent_.read() + t, viewAs<uint16_t>(panels.data), y, columns, rank,
                               panels.outputs, ldt, lineWeights(panels.dtype, panels.rank), ldy, add});
}

void PrefillSteps::gather(const PlannedLinear& linear, int64_t blocks, int64_t columns, const Widths& widths) {
  const LinearWeights& weights = *linear.weights;
  GatherParams params{};
  params.columns = static_cast<int>(columns);
  GatherJob& job = params.job;
  job.y = linear.y;
  job.bias = weights.bias.read();
  job.outputs = static_cast<int>(weights.outputs);
  job.blocks = static_cast<int>(blocks);
  Widths at;
  for (int64_t b = 0; b < blocks; ++b) {
    const BlockWeights& block = weights.blocks[static_cast<size_t>(b)];
    job.gather[b] = block.gather.read();
    job.rank[b] = static_cast<int>(block.rank());
    job.t[b] = static_cast<int>(at.t);
    job.u[b] = static_cast<int>(at.u);
    at.t += block.rank();
    at.u += block.c.outputs;
  }
  params.t = t_.read();
  params.u = u_.read();
  params.tWidth = static_cast<int>(widths.t);
  params.uWidth = static_cast<int>(widths.u);
  launchGather(model.queue.stream(), params);
}

}  // namespace flrc::gpu
