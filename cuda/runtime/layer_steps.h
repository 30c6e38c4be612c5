#pragma once

#include <vector>

#include "kernels/causal_attention.h"
#include "kernels/passes.h"
#include "runtime/rotations.h"
#include "runtime/weight_halves.h"

namespace flrc::gpu {

// A layer of dense projections, as its passes read it.
struct PassedLayer {
  const DeviceModel& model;
  const LayerWeights& weights;
  WeightHalves halves[kBackendProjections];
  Rotations rotations;
};

// The way of one sequence at a time through a layer and back, and its activations on the device, f32
// [tokens][width].
class LayerSteps {
 public:
  // Bytes of the device for sequences of up to `longest` tokens.
  static double bytesOf(const PassedLayer& layer, int64_t longest);
  LayerSteps(const PassedLayer& layer, int64_t longest);

  // As the table's layerForward and layerBackward.
  void forward(const float* x, int64_t tokens, float* y, const BackendCancel& cancel);
  void backward(const float* x, int64_t tokens, const float* dy, float* dx, double (*scores)[3],
                const BackendTapes* tapes, const BackendSums* sums, const BackendCancel& cancel);

 private:
  // Activations, and how many values a token has of them.
  using Member = Buffer<float> LayerSteps::*;
  struct Part {
    Member buffer;
    int64_t width;
  };
  static std::vector<Part> partsOf(const PassedLayer& layer);

  // What all steps of a call have in common.
  struct Call {
    Pieces& pieces;
    int64_t tokens;
    bool scored = false;
    const BackendTapes* tapes = nullptr;
    const BackendSums* sums = nullptr;
  };

  // From x_ to product_, the input of down.
  void forward(const Call& call);
  void backward(const Call& call);
  // Of the attention's launches, each of a range of tokens.
  template <typename Launch>
  void attend(const Call& call, double flops, const Launch& launch) const;
  void turn(const Call& call, const Buffer<float>& raw, const Buffer<float>& to, const Buffer<float>& norm,
            int64_t heads, float scale) const;
  TurnParams turnOf(const Call& call, const Buffer<float>& raw, const Buffer<float>& norm, int64_t heads,
                    float scale) const;
  void turnBack(const Call& call, const Buffer<float>& raw, const Buffer<float>& gradient,
                const Buffer<float>& norm, int64_t heads, float scale) const;
  void normalise(const Call& call, const Buffer<float>& x, const Buffer<float>& weight,
                 const Buffer<float>& y) const;
  // dx += what dy passes back through the norm of x.
  void normaliseBack(const Call& call, const Buffer<float>& x, const Buffer<float>& weight,
                     const Buffer<float>& dy, const Buffer<float>& dx) const;
  // y = x + what a block puts out, normed and scaled as the model says: y itself, or `raw` where there is a
  // norm.
  void join(const Call& call, const Buffer<float>& norm, const Buffer<float>& raw, const Buffer<float>& x,
            const Buffer<float>& y) const;
  // From gradient_, at what join has made, to the gradient at what the block puts out.
  const Buffer<float>& leaveBlock(const Call& call, const Buffer<float>& norm, const Buffer<float>& raw) const;
  // to = scale * to + from
  void add(const Call& call, const Buffer<float>& from, const Buffer<float>& to, int64_t width,
           float scale = 1) const;
  // What the next products take.
  void take(const Call& call, int p, const Buffer<float>& input);
  // y = W x (+ bias).
  void apply(const Call& call, int p, const Buffer<float>& y, bool biased = true) const;
  // Scores, tapes, and what g, the gradient at the output, passes back; the input has been taken.
  void passBack(const Call& call, int p, const Buffer<float>& g, const Buffer<float>& to);
  // What it leaves: to the host, and to the moment that sums it.
  void leave(const Call& call, BackendTape tape, int p, const Buffer<float>& values, int64_t width);
  void put(const Call& call, BackendTape tape, int p, const Buffer<float>& values, int64_t width) const;
  void addSquares(const Call& call, BackendTape tape, int p, const Buffer<float>& values, int64_t width,
                  Global<const float> factors);
  void addCurve(const Call& call, int p, const Buffer<float>& input, const Buffer<float>& g) const;
  // Squares and curves that this pass has added up, to the host.
  void takeSums(const Call& call);
  // To factors_, where moments sum gradients.
  void clip(const Call& call, int p, const Buffer<float>& g);
  void score(const Call& call, int p);

  CausalAttentionParams attentionOf(int64_t tokens) const;

  const PassedLayer& layer_;
  const DeviceModel& model_;
  Buffer<float> x_, attentionInput_, qRaw_, kRaw_, q_, k_, v_, attended_, logSums_, attentionOutput_,
      mlpOutput_, middle_, mlpInput_, gate_, up_, product_, out_;
  // On the way back: the gradient at the output, then where the layer's halves join; at what a block puts out,
  // where that is another; at a norm's result; what a projection passes back, or on; of attention.
  Buffer<float> gradient_, outputGradient_, dNormed_, passed_, dq_, dk_, dv_, dots_, parts_;
  Buffer<float> factors_;  // that clip a projection's gradients
  Buffer<uint16_t> attentionRounded_, backRounded_;
  RoundedRows input_, output_;  // of one projection: x, and g
  SplitRows rows_;              // what a moment sums
  // Sums of squares: of every input and gradient at most, [kMostSquared][widest], and how wide those are that
  // this pass has made.
  static constexpr int64_t kMostSquared = kBackendInputs + kBackendProjections;
  Buffer<double> partial_, scores_, squares_;
  int64_t squared_[kMostSquared] = {};
  HostBuffer<float> staged_;  // what comes and goes, one thing after another; two inputs at once
};

}  // namespace flrc::gpu
