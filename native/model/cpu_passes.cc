#include "model/cpu_passes.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "core/job.h"
#include "core/recycled.h"
#include "linalg/bf16_gemm.h"
#include "linalg/fisher.h"
#include "linalg/gemm.h"
#include "model/guarded.h"
#include "model/head_pass.h"
#include "model/layer_pass.h"

namespace flrc {

struct DeviceLayerPass {
  struct Scratch {
    LayerActivations kept;
    LayerGradients gradients;
    std::vector<float> passedOn;
  };

  const ModelConfig& config;
  const WideLayer& layer;
  std::optional<WideLayer> rounded;
  RopeTable rope;
  Recycled<Scratch> scratch;

  const WideLayer& weights() const { return rounded ? *rounded : layer; }
};

struct DeviceHeadPass {
  HeadPass head;
};

namespace {

// As PyTorch's own passes of such models do: weights are bf16 already, activations and gradients are rounded.
bool rounds(Dtype dtype) { return dtype == Dtype::bf16 && multipliesBf16(); }

bool rounds(const WideLayer& layer) {
  return std::all_of(layer.projections.begin(), layer.projections.end(),
                     [](const WideLinear& linear) { return rounds(linear.linear->dense->dtype); });
}

void putTapes(const BackendTapes& tapes, const WideLayer& layer, int64_t tokens,
              DeviceLayerPass::Scratch& work) {
  const auto put = [&](BackendTape tape, int p, const auto& valuesOf) {
    if (!(tapes.wanted[static_cast<int>(tape)] >> p & 1)) return;
    const std::vector<float>& values = valuesOf();
    if (tapes.put(tapes.context, tape, p, values.data(), std::ssize(values))) return;
    throw Error(code::aborted, "what a pass leaves has no place");
  };
  for (int p = 0; p < kProjections; ++p) {
    const auto at = static_cast<size_t>(p);
    const auto gradient = [&]() -> const auto& { return work.gradients.outputs[at]; };
    const auto passedBack = [&]() -> const auto& { return work.gradients.inputs[at]; };
    const auto input = [&]() -> const auto& { return work.kept.input(p); };
    const auto passedOn = [&]() -> const auto& {
      const Linear& linear = *layer.projections[at].linear;
      const int64_t m = linear.outputs, n = linear.inputs;
      work.passedOn.resize(static_cast<size_t>(tokens * m));
      gemm(false, true, tokens, m, n, 1.0f, input().data(), n, layer.projections[at].dense.values.data(), n,
           0.0f, work.passedOn.data(), m);
      return work.passedOn;
    };
    put(BackendTape::input, p, input);
    put(BackendTape::gradient, p, gradient);
    put(BackendTape::passedBack, p, passedBack);
    put(BackendTape::passedOn, p, passedOn);
  }
}

}  // namespace

BackendCode cpuCreateLayerPass(DeviceModel* model, int64_t, int64_t longest, const void* host,
                               DeviceLayerPass** out, BackendFailure* failure) {
  return guarded(failure, [&] {
    const auto& layer = *static_cast<const WideLayer*>(host);
    const ModelConfig& config = modelOf(model).config;
    std::unique_ptr<DeviceLayerPass> made(new DeviceLayerPass{config, layer, {}, {}, {}});
    if (rounds(layer)) made->rounded = roundedToBf16(layer, modelOf(model).threads);
    made->rope.grow(config, longest);
    *out = made.release();
  });
}

void cpuReleaseLayerPass(DeviceLayerPass* pass) { delete pass; }

BackendCode cpuLayerForward(DeviceLayerPass* pass, const float* x, int64_t tokens, float* y,
                            const BackendCancel*, BackendFailure* failure) {
  return guarded(failure, [&] {
    auto work = pass->scratch.take();
    layerForward(pass->config, pass->weights(), pass->rope, tokens, x, work->kept, y);
  });
}

BackendCode cpuLayerBackward(DeviceLayerPass* pass, const float* x, int64_t tokens, const float* dy, float* dx,
                             double (*scores)[3], const BackendTapes* tapes, const BackendSums*,
                             const BackendCancel* cancel, BackendFailure* failure) {
  return guarded(failure, [&] {
    auto work = pass->scratch.take();
    layerForward(pass->config, pass->weights(), pass->rope, tokens, x, work->kept, nullptr);
    layerBackward(pass->config, pass->weights(), pass->rope, tokens, x, work->kept, dy, work->gradients, dx);
    for (int p = 0; scores && p < kProjections; ++p) {
      jobOf(cancel).check();
      const auto at = static_cast<size_t>(p);
      const WideLinear& wide = pass->layer.projections[at];
      const FisherScore score =
          fisherScore(work->kept.input(p).data(), work->gradients.outputs[at].data(), wide.dense.values.data(),
                      tokens, wide.linear->outputs, wide.linear->inputs, pass->rounded.has_value());
      scores[p][0] = score.weighted;
      scores[p][1] = score.gradient;
      scores[p][2] = score.taylor;
    }
    putTapes(*tapes, pass->layer, tokens, *work);
  });
}

// Sequences pass on several threads at once: what they leave is added up in their order afterwards.
bool cpuAddsInPlace() { return false; }

BackendCode cpuCreateHeadPass(DeviceModel* model, DeviceHeadPass** out, BackendFailure* failure) {
  return guarded(failure, [&] {
    HeadPass head(modelOf(model));
    head.rounds = rounds(head.model->head->dtype);
    *out = new DeviceHeadPass{head};
  });
}

void cpuReleaseHeadPass(DeviceHeadPass* pass) { delete pass; }

BackendCode cpuHeadGradient(DeviceHeadPass* pass, const float* x, const int32_t* ids, int64_t tokens,
                            const BackendLabels* labels, double* loss, float* dx, const BackendCancel* cancel,
                            BackendFailure* failure) {
  return guarded(failure, [&] {
    *loss = pass->head.lossAndGradient(x, ids, tokens, labels->drawn ? Labels::model : Labels::data,
                                       labels->seed, labels->firstDraw, jobOf(cancel), dx);
  });
}

}  // namespace flrc
