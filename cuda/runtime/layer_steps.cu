#include <algorithm>
#include <utility>

#include "kernels/decode.h"
#include "kernels/passes.h"
#include "runtime/curves.h"
#include "runtime/layer_steps.h"
#include "runtime/moments.h"
#include "runtime/warpgroup_trial.h"

namespace flrc::gpu {
namespace {

// Bytes of bf16 that attention has of a token, there and back.
int64_t attentionRoundedBytes(const DeviceModel& model) {
  return 2 * (attentionRounded(1, model.heads, model.kvHeads, model.headDim) + model.queryWidth());
}

// What the largest scores need of one sequence.
int64_t partialsOf(const LayerWeights& weights) {
  int64_t most = 0;
  for (const LinearWeights& linear : weights.projections) {
    FisherParams params{};
    params.x.width = static_cast<int>(linear.inputs);
    params.g.width = static_cast<int>(linear.outputs);
    params.passage = {1, 1};
    most = std::max<int64_t>(most, fisherPartials(params));
  }
  return most;
}

// The widest input and output of a projection.
int64_t widest(const PassedLayer& layer) {
  return std::max({layer.model.hidden, layer.model.queryWidth(), layer.weights.intermediate()});
}

// Which input a projection has, and which of the projections that have it it is.
constexpr int kInput[kBackendProjections] = {0, 0, 0, 1, 2, 2, 3};
constexpr int kPlace[kBackendProjections] = {0, 1, 2, 0, 0, 1, 0};

// Which of `count` sums is of these rows, -1 for none.
int64_t placeOf(const BackendMomentRows* rows, int64_t count, BackendTape tape, int p) {
  for (int64_t i = 0; i < count; ++i) {
    if (rows[i].tape == tape && rows[i].projection == p) return i;
  }
  return -1;
}

int64_t momentOf(const BackendSums* sums, BackendTape tape, int p) {
  return sums ? placeOf(sums->rows, sums->count, tape, p) : -1;
}

bool isWanted(const BackendTapes* tapes, const BackendSums* sums, BackendTape tape, int p) {
  return (tapes && (tapes->wanted[static_cast<int>(tape)] >> p & 1)) || momentOf(sums, tape, p) >= 0;
}

}  // namespace

std::vector<LayerSteps::Part> LayerSteps::partsOf(const PassedLayer& layer) {
  const DeviceModel& model = layer.model;
  const int64_t d = model.hidden, ff = layer.weights.intermediate(), q = model.queryWidth(),
                kv = model.kvWidth();
  // Whether what a block puts out joins the hidden states as something else.
  const bool isChanged = model.residualScale != 1 || layer.weights.mlpOutputNorm.count() > 0;
  using Self = LayerSteps;
  return {{&Self::x_, d},
          {&Self::attentionInput_, d},
          {&Self::qRaw_, layer.weights.queryNorm.count() > 0 ? q : 0},
          {&Self::kRaw_, layer.weights.keyNorm.count() > 0 ? kv : 0},
          {&Self::q_, q},
          {&Self::k_, kv},
          {&Self::v_, kv},
          {&Self::attended_, q},
          {&Self::logSums_, model.heads},
          {&Self::attentionOutput_, layer.weights.attentionOutputNorm.count() > 0 ? d : 0},
          {&Self::mlpOutput_, layer.weights.mlpOutputNorm.count() > 0 ? d : 0},
          {&Self::middle_, d},
          {&Self::mlpInput_, d},
          {&Self::gate_, ff},
          {&Self::up_, ff},
          {&Self::product_, ff},
          {&Self::out_, d},
          {&Self::gradient_, d},
          {&Self::outputGradient_, isChanged ? d : 0},
          {&Self::dNormed_, d},
          {&Self::passed_, widest(layer)},
          {&Self::dq_, q},
          {&Self::dk_, kv},
          {&Self::dv_, kv},
          {&Self::dots_, model.heads},
          {&Self::factors_, 1},
          {&Self::parts_, attentionParts(1, model.heads, model.kvHeads, model.headDim)}};
}

double LayerSteps::bytesOf(const PassedLayer& layer, int64_t longest) {
  int64_t width = 0;
  for (const Part& part : partsOf(layer)) width += part.width;
  return static_cast<double>(longest * (4 * width + attentionRoundedBytes(layer.model))) +
         2 * RoundedRows::bytesOf(longest, widest(layer)) +
         static_cast<double>(sizeof(double)) *
             static_cast<double>(kMostSquared * widest(layer) + partialsOf(layer.weights)) +
         SplitRows::bytesOf(longest, widest(layer));
}

LayerSteps::LayerSteps(const PassedLayer& layer, int64_t longest)
    : layer_(layer),
      model_(layer.model),
      attentionRounded_(
          static_cast<size_t>(attentionRounded(longest, model_.heads, model_.kvHeads, model_.headDim))),
      backRounded_(static_cast<size_t>(longest * model_.queryWidth())),
      input_(longest, widest(layer_)),
      output_(longest, widest(layer_)),
      rows_(longest, widest(layer_)),
      partial_(static_cast<size_t>(partialsOf(layer.weights))),
      scores_(3 * kBackendProjections),
      squares_(static_cast<size_t>(kMostSquared * widest(layer_))),
      staged_(static_cast<size_t>(longest * std::max(widest(layer_), 2 * model_.hidden))) {
  // All that either way takes, so that neither ends for want of it halfway.
  for (const Part& part : partsOf(layer_)) {
    this->*part.buffer = Buffer<float>(static_cast<size_t>(longest * part.width));
  }
}

void LayerSteps::forward(const float* x, int64_t tokens, float* y, const BackendCancel& cancel) {
  const auto count = static_cast<size_t>(tokens * model_.hidden);
  std::copy_n(x, count, staged_.data());
  {
    Pieces pieces(cancel);
    const Call call{pieces, tokens};
    pieces.upload(x_, 0, staged_.data(), count);
    forward(call);
    take(call, kDown, product_);
    apply(call, kDown, mlpOutput_.count() > 0 ? mlpOutput_ : out_);
    join(call, layer_.weights.mlpOutputNorm, mlpOutput_, middle_, out_);
    pieces.download(out_, 0, staged_.data(), count);
  }
  std::copy_n(staged_.data(), count, y);
}

void LayerSteps::backward(const float* x, int64_t tokens, const float* dy, float* dx, double (*scores)[3],
                          const BackendTapes* tapes, const BackendSums* sums, const BackendCancel& cancel) {
  if (sums && sums->squareCount > kMostSquared) {
    throw Failure(BackendCode::internal, "a pass adds up squares of each input and gradient once");
  }
  const auto count = static_cast<size_t>(tokens * model_.hidden);
  std::copy_n(x, count, staged_.data());
  std::copy_n(dy, count, staged_.data() + count);
  const BackendTurn* turn = sums ? sums->turn : nullptr;
  if (turn) turn->enter(turn->context);
  {
    Pieces pieces(cancel);
    const Call call{pieces, tokens, scores != nullptr, tapes, sums};
    pieces.upload(x_, 0, staged_.data(), count);
    pieces.upload(gradient_, 0, staged_.data() + count, count);
    pieces.clear(scores_);
    forward(call);
    backward(call);
    // Only here is anything waited for.
    if (sums) takeSums(call);
    if (scores) pieces.download(scores_, 0, scores[0], scores_.count());
    if (dx) pieces.download(gradient_, 0, staged_.data(), count);
  }
  if (turn) turn->leave(turn->context);
  if (dx) std::copy_n(staged_.data(), count, dx);
}

void LayerSteps::forward(const Call& call) {
  const LayerWeights& weights = layer_.weights;
  const bool queryNorm = qRaw_.count() > 0, keyNorm = kRaw_.count() > 0;
  normalise(call, x_, weights.attentionNorm, attentionInput_);
  take(call, kQ, attentionInput_);
  apply(call, kQ, queryNorm ? qRaw_ : q_);
  apply(call, kK, keyNorm ? kRaw_ : k_);
  apply(call, kV, v_);
  turn(call, queryNorm ? qRaw_ : q_, q_, weights.queryNorm, model_.heads, model_.queryScale);
  turn(call, keyNorm ? kRaw_ : k_, k_, weights.keyNorm, model_.kvHeads, 1);
  // Scores and sums of values.
  attend(call, 4, [&](const TokenRange& range) {
    launchCausalAttention(call.pieces.stream(), attentionOf(call.tokens), range);
  });
  take(call, kO, attended_);
  apply(call, kO, attentionOutput_.count() > 0 ? attentionOutput_ : middle_);
  join(call, weights.attentionOutputNorm, attentionOutput_, x_, middle_);
  normalise(call, middle_, weights.mlpNorm, mlpInput_);
  take(call, kGate, mlpInput_);
  apply(call, kGate, gate_);
  apply(call, kUp, up_);
  launchGated(
      call.pieces.stream(),
      {gate_.read(), up_.read(), product_.global(), call.tokens * weights.intermediate(), model_.activation},
      false);
}

void LayerSteps::backward(const Call& call) {
  const LayerWeights& weights = layer_.weights;
  const int64_t d = model_.hidden;
  take(call, kDown, product_);
  if (mlpOutput_.count() > 0) apply(call, kDown, mlpOutput_);
  passBack(call, kDown, leaveBlock(call, weights.mlpOutputNorm, mlpOutput_), passed_);
  launchGatedBackward(call.pieces.stream(),
                      {gate_.read(), up_.read(), passed_.read(), gate_.global(), up_.global(),
                       call.tokens * weights.intermediate(), model_.activation});
  take(call, kGate, mlpInput_);
  passBack(call, kGate, gate_, dNormed_);
  passBack(call, kUp, up_, passed_);
  add(call, passed_, dNormed_, d);
  normaliseBack(call, middle_, weights.mlpNorm, dNormed_, gradient_);

  take(call, kO, attended_);
  passBack(call, kO, leaveBlock(call, weights.attentionOutputNorm, attentionOutput_), passed_);
  const CausalAttentionBackwardParams attention{
      attentionOf(call.tokens), passed_.read(), dq_.global(),   dk_.global(), dv_.global(),
      backRounded_.global(),    dots_.global(), parts_.global()};
  attend(call, 14, [&](const TokenRange& range) {
    launchCausalAttentionBackward(call.pieces.stream(), attention, range);
  });
  turnBack(call, qRaw_, dq_, weights.queryNorm, model_.heads, model_.queryScale);
  turnBack(call, kRaw_, dk_, weights.keyNorm, model_.kvHeads, 1);
  take(call, kQ, attentionInput_);
  passBack(call, kQ, dq_, dNormed_);
  passBack(call, kK, dk_, passed_);
  add(call, passed_, dNormed_, d);
  passBack(call, kV, dv_, passed_);
  add(call, passed_, dNormed_, d);
  normaliseBack(call, x_, weights.attentionNorm, dNormed_, gradient_);
}

CausalAttentionParams LayerSteps::attentionOf(int64_t tokens) const {
  return {q_.read(),
          k_.read(),
          v_.read(),
          static_cast<int>(tokens),
          static_cast<int>(model_.heads),
          static_cast<int>(model_.kvHeads),
          static_cast<int>(model_.headDim),
          static_cast<int>(layer_.weights.window),
          attended_.global(),
          logSums_.global(),
          attentionRounded_.global()};
}

template <typename Launch>
void LayerSteps::attend(const Call& call, double flops, const Launch& launch) const {
  const int64_t window = layer_.weights.window;
  const int64_t seen = window > 0 ? std::min(window, call.tokens) : call.tokens;
  const double perToken = flops * static_cast<double>(model_.queryWidth()) * static_cast<double>(seen);
  call.pieces.multiplyEach(call.tokens, kAttentionTokens, perToken, [&](int64_t first, int64_t count) {
    launch(TokenRange{static_cast<int>(first), static_cast<int>(count)});
  });
}

TurnParams LayerSteps::turnOf(const Call& call, const Buffer<float>& raw, const Buffer<float>& norm,
                              int64_t heads, float scale) const {
  const Rotations::View by = layer_.rotations.of(layer_.weights);
  return {raw.read(),
          nullptr,
          norm.read(),
          model_.eps,
          by.cosine,
          by.sine,
          static_cast<int>(call.tokens),
          static_cast<int>(heads),
          static_cast<int>(model_.headDim),
          by.pairs,
          scale};
}

void LayerSteps::turn(const Call& call, const Buffer<float>& raw, const Buffer<float>& to,
                      const Buffer<float>& norm, int64_t heads, float scale) const {
  TurnParams params = turnOf(call, raw, norm, heads, scale);
  params.y = to.global();
  launchTurn(call.pieces.stream(), params);
}

void LayerSteps::turnBack(const Call& call, const Buffer<float>& raw, const Buffer<float>& gradient,
                          const Buffer<float>& norm, int64_t heads, float scale) const {
  launchTurnBackward(call.pieces.stream(),
                     {turnOf(call, raw, norm, heads, scale), gradient.read(), gradient.global()});
}

void LayerSteps::normalise(const Call& call, const Buffer<float>& x, const Buffer<float>& weight,
                           const Buffer<float>& y) const {
  launchNorm(call.pieces.stream(),
             {x.global(), nullptr, weight.read(), y.global(), model_.eps, static_cast<int>(model_.hidden)},
             static_cast<int>(call.tokens), false);
}

void LayerSteps::normaliseBack(const Call& call, const Buffer<float>& x, const Buffer<float>& weight,
                               const Buffer<float>& dy, const Buffer<float>& dx) const {
  launchNormBackward(
      call.pieces.stream(),
      {x.read(), dy.read(), weight.read(), dx.global(), model_.eps, static_cast<int>(model_.hidden), true},
      static_cast<int>(call.tokens));
}

void LayerSteps::join(const Call& call, const Buffer<float>& norm, const Buffer<float>& raw,
                      const Buffer<float>& x, const Buffer<float>& y) const {
  if (norm.count() > 0) normalise(call, raw, norm, y);
  add(call, x, y, model_.hidden, model_.residualScale);
}

const Buffer<float>& LayerSteps::leaveBlock(const Call& call, const Buffer<float>& norm,
                                            const Buffer<float>& raw) const {
  const bool scaled = model_.residualScale != 1;
  if (norm.count() == 0 && !scaled) return gradient_;
  if (scaled) {
    launchScale(call.pieces.stream(), {gradient_.read(), outputGradient_.global(), model_.residualScale,
                                       call.tokens * model_.hidden});
  }
  if (norm.count() > 0) {
    const Buffer<float>& dy = scaled ? outputGradient_ : gradient_;
    launchNormBackward(call.pieces.stream(),
                       {raw.read(), dy.read(), norm.read(), outputGradient_.global(), model_.eps,
                        static_cast<int>(model_.hidden), false},
                       static_cast<int>(call.tokens));
  }
  return outputGradient_;
}

void LayerSteps::add(const Call& call, const Buffer<float>& from, const Buffer<float>& to, int64_t width,
                     float scale) const {
  launchAdd(call.pieces.stream(),
            {to.global(), from.read(), call.tokens, static_cast<int>(width), false, scale});
}

void LayerSteps::take(const Call& call, int p, const Buffer<float>& input) {
  input_.round(call.pieces, input.read(), call.tokens, layer_.weights.projections[p].inputs);
}

void LayerSteps::apply(const Call& call, int p, const Buffer<float>& y, bool biased) const {
  const LinearWeights& linear = layer_.weights.projections[p];
  const int64_t m = linear.outputs;
  multiply(call.pieces, {input_.halves(), layer_.halves[p].halves(), call.tokens, m, y.global(), m});
  if (!biased || linear.bias.count() == 0) return;
  launchAdd(call.pieces.stream(), {y.global(), linear.bias.read(), call.tokens, static_cast<int>(m), true});
}

void LayerSteps::passBack(const Call& call, int p, const Buffer<float>& g, const Buffer<float>& to) {
  const LinearWeights& linear = layer_.weights.projections[p];
  const int64_t m = linear.outputs, n = linear.inputs;
  const Buffer<float>* inputs[kBackendProjections] = {
      &attentionInput_, &attentionInput_, &attentionInput_, &attended_, &mlpInput_, &mlpInput_, &product_};
  output_.round(call.pieces, g.read(), call.tokens, m);
  if (call.scored) score(call, p);
  clip(call, p, g);
  leave(call, BackendTape::input, p, *inputs[p], n);
  leave(call, BackendTape::gradient, p, g, m);
  addCurve(call, p, *inputs[p], g);
  if (isWanted(call.tapes, call.sums, BackendTape::passedOn, p)) {
    apply(call, p, passed_, false);
    leave(call, BackendTape::passedOn, p, passed_, m);
  }
  multiply(call.pieces, {output_.halves(), layer_.halves[p].halves(), call.tokens, n, to.global(), n, true});
  leave(call, BackendTape::passedBack, p, to, n);
}

void LayerSteps::clip(const Call& call, int p, const Buffer<float>& g) {
  const auto isSummed = [&](BackendTape tape) { return momentOf(call.sums, tape, p) >= 0; };
  if (!isSummed(BackendTape::gradient) && !isSummed(BackendTape::passedBack)) return;
  launchDots(call.pieces.stream(),
             {g.read(), g.read(), static_cast<int>(call.tokens),
              static_cast<int>(layer_.weights.projections[p].outputs), factors_.global()});
  launchClipFactors(call.pieces.stream(), {factors_.read(), factors_.global(), static_cast<int>(call.tokens)});
}

void LayerSteps::leave(const Call& call, BackendTape tape, int p, const Buffer<float>& values, int64_t width) {
  if (isWanted(call.tapes, nullptr, tape, p)) put(call, tape, p, values, width);
  if (!call.sums) return;
  const bool clipped = tape == BackendTape::gradient || tape == BackendTape::passedBack;
  const Global<const float> factors = clipped ? factors_.read() : nullptr;
  addSquares(call, tape, p, values, width, factors);
  const int64_t moment = momentOf(call.sums, tape, p);
  if (moment < 0) return;
  rows_.split(call.pieces, values.read(), call.tokens, width, factors);
  call.sums->moments->add(call.pieces, static_cast<size_t>(moment), rows_.halves(), call.tokens);
}

void LayerSteps::addSquares(const Call& call, BackendTape tape, int p, const Buffer<float>& values,
                            int64_t width, Global<const float> factors) {
  const int64_t place = placeOf(call.sums->squared, call.sums->squareCount, tape, p);
  if (place < 0) return;
  squared_[place] = width;
  launchColumnSquares(call.pieces.stream(), {values.read(), factors, squares_.global() + place * widest(layer_),
                                             static_cast<int>(call.tokens), static_cast<int>(width)});
}

void LayerSteps::takeSums(const Call& call) {
  for (int64_t place = 0; place < call.sums->squareCount; ++place) {
    std::vector<double> sums(static_cast<size_t>(std::exchange(squared_[place], 0)));
    call.pieces.download(squares_, static_cast<size_t>(place * widest(layer_)), sums.data(), sums.size());
    double* to = call.sums->squares[place];
    for (size_t i = 0; i < sums.size(); ++i) to[i] += sums[i];
  }
  for (int p = 0; p < kBackendProjections; ++p) {
    const int input = kInput[p], place = kPlace[p];
    DeviceCurves* curves = call.sums->curves[input];
    if (curves) curves->take(call.pieces, static_cast<size_t>(place), call.sums->out[input][place]);
  }
}

void LayerSteps::addCurve(const Call& call, int p, const Buffer<float>& input, const Buffer<float>& g) const {
  DeviceCurves* curves = call.sums ? call.sums->curves[kInput[p]] : nullptr;
  if (!curves) return;
  curves->add(call.pieces, static_cast<size_t>(kPlace[p]), input.read(), g.read(), call.tokens);
}

void LayerSteps::score(const Call& call, int p) {
  // As many as a cluster's two tiles.
  constexpr int64_t kRows = 256;
  const LinearWeights& linear = layer_.weights.projections[p];
  const Dtype dtype = linear.dense.dtype;
  FisherParams params{};
  params.x = input_.rows();
  params.g = output_.rows();
  params.passage = {1, static_cast<int>(call.tokens)};
  params.weights = linear.dense.data.read();
  params.partial = partial_.global();
  params.sums = scores_.global() + 3 * p;
  // Squared is what is summed over all tokens: it is the rows that are divided.
  call.pieces.multiplyEach(linear.outputs, kRows, 2.0 * static_cast<double>(call.tokens * linear.inputs),
                           [&](int64_t first, int64_t count) {
                             const FisherParams part =
                                 rowsOf(dtype, params, static_cast<int>(first), static_cast<int>(count));
                             launchFisher(call.pieces.stream(), dtype, part, trustedWarpgroups());
                           });
}

void LayerSteps::put(const Call& call, BackendTape tape, int p, const Buffer<float>& values,
                     int64_t width) const {
  const auto count = static_cast<size_t>(call.tokens * width);
  call.pieces.download(values, 0, staged_.data(), count);
  bool kept = false;
  call.pieces.aside([&] {
    kept = call.tapes->put(call.tapes->context, tape, p, staged_.data(), static_cast<int64_t>(count));
  });
  if (!kept) throw Failure(BackendCode::aborted, "what a pass leaves has no place");
}

}  // namespace flrc::gpu
