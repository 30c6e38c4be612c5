#include <cmath>

#include "kernels/activations.cuh"
#include "kernels/octets.cuh"
#include "kernels/passes.h"
#include "kernels/rotation.cuh"
#include "linalg/clipping.h"

namespace flrc::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// A thread holds every kNormThreads-th octet of a row, kHeld of them, as in launchNorm.
template <int kHeld>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kNormThreads, 1) normBackwardKernel(FLRC_PARAMS(NormBackwardParams) p) {
  const int64_t row = static_cast<int64_t>(blockX()) * p.width;
  const auto placeOf = [](int octet) { return (octet * kNormThreads + threadIndex()) * 8; };
  float value[kHeld][8], weighted[kHeld][8];
  float squares = 0, along = 0;
  FLRC_UNROLL
  for (int k = 0; k < kHeld; ++k) {
    float weight[8];
    readOctet(p.x + row, p.width, placeOf(k), value[k]);
    readOctet(p.dy + row, p.width, placeOf(k), weighted[k]);
    readOctet(p.weight, p.width, placeOf(k), weight);
    squares = addSquares(value[k], squares);
    FLRC_UNROLL
    for (int i = 0; i < 8; ++i) {
      weighted[k][i] *= weight[i];
      along = fusedMultiplyAdd(weighted[k][i], value[k][i], along);
    }
  }
  const Shared<float> scratch = sharedMemory<float>(0);
  const float inverse = inverseNorm(squares, p.width, p.eps, scratch);
  along = blockSum(along, scratch + kNormThreads / 32) * inverse * inverse / static_cast<float>(p.width);
  FLRC_UNROLL
  for (int k = 0; k < kHeld; ++k) {
    float before[8] = {};
    if (p.adds) readOctet(p.dx + row, p.width, placeOf(k), before);
    FLRC_UNROLL
    for (int i = 0; i < 8; ++i) before[i] += inverse * (weighted[k][i] - along * value[k][i]);
    writeOctet(p.dx + row, p.width, placeOf(k), before);
  }
}

// The head that this warp has, or -1.
FLRC_DEVICE int64_t ownHead(const TurnParams& p) {
  const int64_t head = static_cast<int64_t>(blockX()) * kWarps + warpIndex();
  return head < static_cast<int64_t>(p.tokens) * p.heads ? head : -1;
}

FLRC_DEVICE HeadShape shapeOf(const TurnParams& p) { return {p.headDim, p.pairs}; }

FLRC_DEVICE void storeHead(const HeadPart& part, const HeadShape& shape, Global<float> head) {
  const Global<Float2> to = pointerCast<Float2>(head);
  part.forEach(shape, [&](int word, Float2 pair) { to[word] = pair; });
}

FLRC_DEVICE void scaleHead(HeadPart& part, float by) {
  FLRC_UNROLL
  for (int i = 0; i < HeadPart::kPairs; ++i) {
    part.low[i] = {part.low[i].x * by, part.low[i].y * by};
    part.high[i] = {part.high[i].x * by, part.high[i].y * by};
  }
}

FLRC_KERNEL void turnKernel(FLRC_PARAMS(TurnParams) p) {
  const int64_t head = ownHead(p);
  if (head < 0) return;
  HeadPart part = loadHead(p.x + head * p.headDim, shapeOf(p));
  turnHead(part, p, p.norm, anglesAt(p, static_cast<int>(head / p.heads)));
  scaleHead(part, p.scale);
  storeHead(part, shapeOf(p), p.y + head * p.headDim);
}

FLRC_KERNEL void turnBackwardKernel(FLRC_PARAMS(TurnBackwardParams) p) {
  const TurnParams& turn = p.turn;
  const int64_t head = ownHead(turn);
  if (head < 0) return;
  HeadPart part = loadHead(p.dy + head * turn.headDim, shapeOf(turn));
  Angles angles = anglesAt(turn, static_cast<int>(head / turn.heads));
  FLRC_UNROLL
  for (Float2& sine : angles.sine) sine = {-sine.x, -sine.y};
  turnPairs(part, angles);
  scaleHead(part, turn.scale);
  if (turn.norm != nullptr) {
    const HeadPart x = loadHead(turn.x + head * turn.headDim, shapeOf(turn)),
                   weight = loadHead(turn.norm, shapeOf(turn));
    float sum = 0;
    FLRC_UNROLL
    for (int i = 0; i < HeadPart::kPairs; ++i) {
      part.low[i] = {part.low[i].x * weight.low[i].x, part.low[i].y * weight.low[i].y};
      part.high[i] = {part.high[i].x * weight.high[i].x, part.high[i].y * weight.high[i].y};
      sum = fusedMultiplyAdd(part.low[i].y, x.low[i].y, fusedMultiplyAdd(part.low[i].x, x.low[i].x, sum));
      sum = fusedMultiplyAdd(part.high[i].y, x.high[i].y, fusedMultiplyAdd(part.high[i].x, x.high[i].x, sum));
    }
    const float inverse = inverseHeadNorm(x, turn.headDim, turn.eps);
    const float along = warpSum(sum) * inverse * inverse / static_cast<float>(turn.headDim);
    FLRC_UNROLL
    for (int i = 0; i < HeadPart::kPairs; ++i) {
      part.low[i] = {inverse * (part.low[i].x - along * x.low[i].x),
                     inverse * (part.low[i].y - along * x.low[i].y)};
      part.high[i] = {inverse * (part.high[i].x - along * x.high[i].x),
                      inverse * (part.high[i].y - along * x.high[i].y)};
    }
  }
  storeHead(part, shapeOf(turn), p.dx + head * turn.headDim);
}

// A thread has four neighbours: body(quad of them) where all are there, one(index) for each otherwise.
template <typename Quad, typename One>
FLRC_DEVICE void forQuad(int64_t count, const Quad& quad, const One& one) {
  const int64_t first = (static_cast<int64_t>(blockX()) * kThreads + threadIndex()) * 4;
  if (first + 4 <= count) return quad(first / 4);
  for (int64_t i = first; i < count; ++i) one(i);
}

struct GatedGradient {
  float gate, up;
};
FLRC_KERNEL void gatedBackwardKernel(FLRC_PARAMS(GatedBackwardParams) p) {
  const auto gatedGradient = [&](float gate, float up, float dy) -> GatedGradient {
    const Activated at = activatedWithSlope(p.activation, gate);
    return {dy * up * at.slope, dy * at.value};
  };
  const auto quad = [&](int64_t i) {
    const Float4 gate = pointerCast<const Float4>(p.gate)[i], up = pointerCast<const Float4>(p.up)[i],
                 dy = pointerCast<const Float4>(p.dy)[i];
    const GatedGradient x = gatedGradient(gate.x, up.x, dy.x), y = gatedGradient(gate.y, up.y, dy.y),
                        z = gatedGradient(gate.z, up.z, dy.z), w = gatedGradient(gate.w, up.w, dy.w);
    pointerCast<Float4>(p.dGate)[i] = Float4{x.gate, y.gate, z.gate, w.gate};
    pointerCast<Float4>(p.dUp)[i] = Float4{x.up, y.up, z.up, w.up};
  };
  forQuad(p.count, quad, [&](int64_t i) {
    const GatedGradient d = gatedGradient(p.gate[i], p.up[i], p.dy[i]);
    p.dGate[i] = d.gate;
    p.dUp[i] = d.up;
  });
}

FLRC_KERNEL void addKernel(FLRC_PARAMS(AddParams) p) {
  const auto one = [&](int64_t i) {
    p.x[i] = fusedMultiplyAdd(p.scale, p.x[i], p.add[p.bias ? i % p.width : i]);
  };
  const auto quad = [&](int64_t i) {
    if (p.bias && p.width % 4 != 0) {
      for (int64_t k = 4 * i; k < 4 * i + 4; ++k) one(k);
      return;
    }
    const Float4 x = pointerCast<Float4>(p.x)[i],
                 add = pointerCast<const Float4>(p.add)[p.bias ? i % (p.width / 4) : i];
    pointerCast<Float4>(p.x)[i] =
        Float4{fusedMultiplyAdd(p.scale, x.x, add.x), fusedMultiplyAdd(p.scale, x.y, add.y),
               fusedMultiplyAdd(p.scale, x.z, add.z), fusedMultiplyAdd(p.scale, x.w, add.w)};
  };
  forQuad(p.rows * p.width, quad, one);
}

FLRC_KERNEL void scaleKernel(FLRC_PARAMS(ScaleParams) p) {
  const auto quad = [&](int64_t i) {
    const Float4 x = pointerCast<const Float4>(p.x)[i];
    pointerCast<Float4>(p.y)[i] = Float4{x.x * p.factor, x.y * p.factor, x.z * p.factor, x.w * p.factor};
  };
  forQuad(p.count, quad, [&](int64_t i) { p.y[i] = p.x[i] * p.factor; });
}

// One block, for each thread every kThreads-th token.
FLRC_KERNEL void clipFactorsKernel(FLRC_PARAMS(ClipFactorsParams) p) {
  const auto normOf = [&](int token) { return sqrt(static_cast<double>(p.squares[token])); };
  double mean = 0;
  for (int t = threadIndex(); t < p.tokens; t += kThreads) mean += normOf(t) / p.tokens;
  mean = blockSum(mean, sharedMemory<double>(0));
  for (int t = threadIndex(); t < p.tokens; t += kThreads) {
    const double norm = normOf(t), clipped = fmin(fmax(norm, kLeastNorm * mean), kMostNorm * mean);
    p.factors[t] = norm > kNoiseNorm * mean ? static_cast<float>(clipped / norm) : 1.0f;
  }
}

// A lane has a column, of which each of a block's warps has every kWarps-th token.
FLRC_KERNEL void columnSquaresKernel(FLRC_PARAMS(ColumnSquaresParams) p) {
  const Shared<double> sums = sharedMemory<double>(0);  // [kWarps][32]
  const int64_t column = int64_t{blockX()} * 32 + laneIndex();
  double sum = 0;
  for (int64_t t = warpIndex(); column < p.width && t < p.tokens; t += kWarps) {
    const double factor = p.factors != nullptr ? static_cast<double>(p.factors[t]) : 1.0;
    const double value = factor * static_cast<double>(p.x[t * p.width + column]);
    sum = fusedMultiplyAdd(value, value, sum);
  }
  sums[threadIndex()] = sum;
  syncBlock();
  if (warpIndex() > 0 || column >= p.width) return;
  for (int warp = 1; warp < kWarps; ++warp) sum += sums[warp * 32 + laneIndex()];
  p.sums[column] = sum;
}

template <typename Params>
void launchBlocks(Stream stream, int64_t items, int64_t each, void (*kernel)(Params), const Params& params) {
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>((items + each - 1) / each);
  shape.threads = kThreads;
  launch(stream, shape, kernel, params);
}

}  // namespace

void launchNormBackward(Stream stream, const NormBackwardParams& params, int rows) {
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>(rows);
  shape.threads = kNormThreads;
  shape.sharedBytes = 2 * kNormThreads / 32 * sizeof(float);
  launchForWidth(params.width, [&](auto octets) {
    launch(stream, shape, normBackwardKernel<decltype(octets)::value>, params);
  });
}

void launchTurn(Stream stream, const TurnParams& params) {
  launchBlocks(stream, static_cast<int64_t>(params.tokens) * params.heads, kWarps, turnKernel, params);
}

void launchTurnBackward(Stream stream, const TurnBackwardParams& params) {
  launchBlocks(stream, static_cast<int64_t>(params.turn.tokens) * params.turn.heads, kWarps, turnBackwardKernel,
               params);
}

void launchGatedBackward(Stream stream, const GatedBackwardParams& params) {
  launchBlocks(stream, params.count, 4 * kThreads, gatedBackwardKernel, params);
}

void launchAdd(Stream stream, const AddParams& params) {
  launchBlocks(stream, params.rows * params.width, 4 * kThreads, addKernel, params);
}

void launchScale(Stream stream, const ScaleParams& params) {
  launchBlocks(stream, params.count, 4 * kThreads, scaleKernel, params);
}

void launchClipFactors(Stream stream, const ClipFactorsParams& params) {
  LaunchShape shape;
  shape.threads = kThreads;
  shape.sharedBytes = kWarps * sizeof(double);
  launch(stream, shape, clipFactorsKernel, params);
}

void launchColumnSquares(Stream stream, const ColumnSquaresParams& params) {
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>((params.width + 31) / 32);
  shape.threads = kThreads;
  shape.sharedBytes = kThreads * sizeof(double);
  launch(stream, shape, columnSquaresKernel, params);
}

}  // namespace flrc::gpu
