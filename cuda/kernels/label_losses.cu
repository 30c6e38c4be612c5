#include <cmath>

#include "kernels/label_losses.h"
#include "kernels/octets.cuh"
#include "kernels/random.cuh"

namespace flrc::gpu {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kStep = 32 * 8;  // logits that a warp takes at a time

// A block has a row, and each of its warps a share of it: neighbours.
struct Row {
  Global<float> logits;
  int vocab, begin, end;

  FLRC_DEVICE explicit Row(const LabelLossParams& p)
      : logits(p.logits + static_cast<int64_t>(blockX()) * p.vocab), vocab(p.vocab) {
    const int steps = (vocab + kStep - 1) / kStep, share = (steps + kWarps - 1) / kWarps * kStep;
    begin = warpIndex() * share;
    end = begin + share < vocab ? begin + share : vocab;
  }

  // body(place of a lane's octet, its values) for all of the warp's share, in order; `none` is what lies behind
  // the row's end.
  template <typename Body>
  FLRC_DEVICE void forEach(float none, const Body& body) const {
    for (int first = begin; first < end; first += kStep) {
      const int at = first + laneIndex() * 8;
      float values[8];
      readOctet(logits, vocab, at, values);
      FLRC_UNROLL
      for (int i = 0; i < 8; ++i) values[i] = at + i < vocab ? values[i] : none;
      body(at, values);
    }
  }
};

// The sum of e^(value - most), most the largest so far.
struct Mass {
  float most = -HUGE_VALF;
  double sum = 0;

  FLRC_DEVICE void add(const float (&values)[8]) {
    float above = values[0];
    FLRC_UNROLL
    for (int i = 1; i < 8; ++i) above = fmaxf(above, values[i]);
    if (above > most) {
      sum *= static_cast<double>(expf(most - above));
      most = above;
    }
    // Where none is above -inf they add nothing, but NaN is not lost.
    const float base = most == -HUGE_VALF ? 0.0f : most;
    FLRC_UNROLL
    for (float value : values) sum += static_cast<double>(expf(value - base));
  }
};

// The first token up to which the probabilities of the warp's share, with `before` those of all before it, add
// up to more than `uniform`; else, which rounding may bring about, the last that has a probability; -1 where
// none has.
FLRC_DEVICE int drawOf(const Row& row, double before, double uniform) {
  constexpr int kNone = 0x7fffffff;
  int label = kNone, last = -1;
  row.forEach(0.0f, [&](int at, const float(&values)[8]) {
    double own = 0;
    FLRC_UNROLL
    for (float value : values) own += static_cast<double>(value);
    // With what the lanes before this one have.
    double upTo = own;
    FLRC_UNROLL
    for (int step = 1; step < 32; step *= 2) {
      const double lower = shuffle(upTo, laneIndex() - step);
      if (laneIndex() >= step) upTo += lower;
    }
    double sum = before + (upTo - own);
    FLRC_UNROLL
    for (int i = 0; i < 8; ++i) {
      sum += static_cast<double>(values[i]);
      if (values[i] > 0) {
        last = at + i;
        if (sum > uniform && label == kNone) label = at + i;
      }
    }
    before += shuffle(upTo, 31);
  });
  FLRC_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    const int found = shuffleXor(label, mask), some = shuffleXor(last, mask);
    label = found < label ? found : label;
    last = some > last ? some : last;
  }
  return label != kNone ? label : last;
}

FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kThreads, 1) labelLossKernel(FLRC_PARAMS(LabelLossParams) p) {
  const Row row(p);
  const int next = p.next[blockX()];
  if (next < 0) {
    if (threadIndex() == 0) p.losses[blockX()] = 0;
    if (!p.gradient) return;
    for (int at = threadIndex() * 8; at < p.vocab; at += kThreads * 8) writeOctet(row.logits, p.vocab, at, {});
    return;
  }
  // A value a warp.
  const Shared<double> sums = sharedMemory<double>(0), masses = sums + kWarps;
  const Shared<float> largest = sharedMemory<float>(2 * kWarps * sizeof(double));

  Mass mass;
  row.forEach(-HUGE_VALF, [&](int, const float(&values)[8]) { mass.add(values); });
  const float nextLogit = row.logits[next];
  const float most = blockReduce(mass.most, largest, [](float a, float b) { return fmaxf(a, b); });
  if (mass.most > -HUGE_VALF) mass.sum *= static_cast<double>(expf(mass.most - most));
  const double sum = blockSum(mass.sum, sums);
  if (threadIndex() == 0) {
    p.losses[blockX()] = log(sum) + (static_cast<double>(most) - static_cast<double>(nextLogit));
  }
  if (!p.gradient) return;

  const auto inverse = static_cast<float>(1 / sum);
  double own = 0;
  row.forEach(-HUGE_VALF, [&](int at, const float(&values)[8]) {
    float gradient[8];
    FLRC_UNROLL
    for (int i = 0; i < 8; ++i) {
      gradient[i] = expf(values[i] - most) * inverse;
      own += static_cast<double>(gradient[i]);
      if (!p.drawn && at + i == next) gradient[i] -= 1.0f;
    }
    writeOctet(row.logits, p.vocab, at, gradient);
  });
  if (!p.drawn) return;
  own = warpSum(own);
  if (laneIndex() == 0) masses[warpIndex()] = own;
  syncBlock();
  // The warp where the draw falls; the last that has any probability, where by rounding it falls in none.
  const double uniform = uniformOf(p.seed, p.firstDraw + static_cast<uint64_t>(blockX()));
  int chosen = 0;
  double before = 0, upTo = 0;
  for (int w = 0; w < kWarps && upTo <= uniform; ++w) {
    const double here = masses[w];
    if (here > 0) {
      chosen = w;
      before = upTo;
    }
    upTo += here;
  }
  if (chosen != warpIndex()) return;
  const int label = drawOf(row, before, uniform);
  syncWarp();
  if (laneIndex() == 0 && label >= 0) row.logits[label] -= 1.0f;
}

struct TotalParams {
  Global<const double> losses;
  int rows;
  Global<double> total;
};

FLRC_KERNEL void totalKernel(FLRC_PARAMS(TotalParams) p) {
  double sum = 0;
  for (int r = laneIndex(); r < p.rows; r += 32) sum += p.losses[r];
  sum = warpSum(sum);
  if (laneIndex() == 0) p.total[0] += sum;
}

}  // namespace

void launchLabelLosses(Stream stream, const LabelLossParams& params) {
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>(params.rows);
  shape.threads = kThreads;
  shape.sharedBytes = kWarps * (2 * sizeof(double) + sizeof(float));
  launch(stream, shape, labelLossKernel, params);
  launch(stream, LaunchShape{}, totalKernel, TotalParams{params.losses, params.rows, params.total});
}

}  // namespace flrc::gpu
