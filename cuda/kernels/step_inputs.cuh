#pragma once

#include "kernels/linears_inputs.cuh"
#include "kernels/octets.cuh"
#include "kernels/step.h"

// The inputs of a step's products: received as they are made, and put into shared memory as fragments.

namespace flrc::gpu::step {

// A product that outputs are gathered from, as long as it takes.
struct GatheredPart {
  Global<const int32_t> places;
  Global<const uint64_t> pivots;
  int pivotCount, firstLine;
};

// Outputs that are gathered, and, for each product, what the block's lines make, in order, and where among
// pivots and lines each output is.
struct Gathered {
  int begin = 0, count = 0;
  Shared<float> made;          // [product][count]
  Shared<int> places;          // [product][count]
  Shared<GatheredPart> parts;  // [kGathered]
};

// A block's shared memory behind its rings. What is in `work` is the job's at hand; the barriers between are
// the caller's.
struct Areas {
  Shared<StepJob> jobs;        // [kJobChunks][kChunkJobs], those to come
  Shared<uint64_t> jobPhases;  // [2][kJobChunks]: of chunks that are there, and of those that have been read
  Shared<float> residual;      // [hidden]: a thread reads only what it has written itself
  Shared<float> scratch;       // [2][kWarps]
  // By turns, so that those who still read the one before are not waited for.
  Gathered gathered[2];
  // One of: the input at hand as fragments have it, two of four lanes each for every group of 32 values (or
  // those of several units of panels), and sums of slices behind it; what attention has; or what it merges.
  Shared<Word4> x;
  Shared<float> partial;
  size_t work;  // where it begins
};

FLRC_DEVICE void placeValues(const Areas& areas, int octet, const float (&value)[8]) {
  linears::placeOctet(areas.x + octet / 4 * 8, octet % 4, value);
}

// Values of an input with the zeros behind it: whole strips of every dtype.
FLRC_ANYWHERE constexpr int inputValues(int64_t width) {
  return static_cast<int>(stripsOf(Dtype::int4, width)) * stripWeights(Dtype::int4);
}

// body(octet, values) for kTogether octets of the thread's at a time, which are on their way together, as long
// as there are so many; returns the next one.
template <int kTogether, typename Body>
FLRC_DEVICE int receiveTogether(Global<const uint64_t> row, int octet, int whole, uint32_t tag,
                                const Body& body) {
  for (; octet + (kTogether - 1) * kNormThreads < whole; octet += kTogether * kNormThreads) {
    float value[kTogether][8];
    receiveTagged<kTogether, 8>(row + octet * 8, kNormThreads * 8, tag, value);
    FLRC_UNROLL
    for (int i = 0; i < kTogether; ++i) body(octet + i * kNormThreads, value[i]);
  }
  return octet;
}

// body(octet, values) for the thread's octets of a row of tagged values, and zeros behind them.
template <typename Body>
FLRC_DEVICE void receiveRow(Global<const uint64_t> row, int width, uint32_t tag, const Body& body) {
  const int octets = inputValues(width) / 8, whole = width / 8;
  int octet = receiveTogether<4>(row, threadIndex(), whole, tag, body);
  octet = receiveTogether<2>(row, octet, whole, tag, body);
  for (; octet < octets; octet += kNormThreads) {
    float value[8];
    receiveOctet(row, width, octet * 8, tag, value);
    body(octet, value);
  }
}

// The residual stream with what is added to it, normalised. Barriers are met.
FLRC_DEVICE void placeNormed(const StepParams& p, const Areas& areas, const StepJob& job, uint32_t tag,
                             Shared<float> scratch) {
  constexpr int kAhead = 2;
  const int octets = inputValues(job.width) / 8;
  float weight[kAhead][8];
  FLRC_UNROLL
  for (int i = 0; i < kAhead; ++i) {
    readOctet(job.norm, job.width, (threadIndex() + i * kNormThreads) * 8, weight[i]);
  }
  float squares = 0;
  const auto add = [&](int octet, const float(&value)[8]) {
    storeOctet(areas.residual + octet * 8, value);
    squares = addSquares(value, squares);
  };
  if (job.from == nullptr) {
    for (int octet = threadIndex(); octet < octets; octet += kNormThreads) {
      float value[8];
      readOctet(p.x, job.width, octet * 8, value);
      add(octet, value);
    }
  } else {
    receiveRow(job.from, job.width, tag, [&](int octet, const float(&value)[8]) {
      float sum[8];
      loadOctet(areas.residual + octet * 8, sum);
      FLRC_UNROLL
      for (int i = 0; i < 8; ++i) sum[i] += value[i];
      add(octet, sum);
    });
  }
  const float inverse = inverseNorm(squares, job.width, p.eps, scratch);
  int i = 0;
  for (int octet = threadIndex(); octet < octets; octet += kNormThreads, ++i) {
    float value[8];
    loadOctet(areas.residual + octet * 8, value);
    if (i >= kAhead) readOctet(job.norm, job.width, octet * 8, weight[0]);
    FLRC_UNROLL
    for (int k = 0; k < 8; ++k) value[k] = value[k] * inverse * (i == 1 ? weight[1][k] : weight[0][k]);
    placeValues(areas, octet, value);
  }
}

FLRC_DEVICE void placeInput(const StepParams& p, const Areas& areas, const StepJob& job, uint32_t tag,
                            Shared<float> scratch) {
  switch (job.source) {
    case StepSource::normed:
      return placeNormed(p, areas, job, tag, scratch);
    case StepSource::tagged:
      return receiveRow(job.from, job.width, tag,
                        [&](int octet, const float(&value)[8]) { placeValues(areas, octet, value); });
  }
}

// Inputs of `count` units of int8 or int4 panels from unit `first` on: each rank's value times what the unit
// scales it by, and behind them int4's zeros. What does not depend on the values is on its way before they are
// waited for.
template <Dtype kType>
FLRC_DEVICE void placeUnits(const Areas& areas, const StepJob& job, int first, int count, uint32_t tag) {
  constexpr int kTogether = 2;
  const int octets = job.strips * stripWeights(kType) / 8;
  // Where there are more threads than octets, several share the units of one.
  const int own = threadIndex() / octets, sharing = octets < kNormThreads ? kNormThreads / octets : 1;
  if (own >= sharing) return;
  for (int octet = threadIndex() - own * octets; octet < octets; octet += kNormThreads) {
    const int k = octet * 8, group = octet / 4, part = octet % 4;
    float value[8];
    for (int u = own; u < count; u += kTogether * sharing) {
      Word4 scales[kTogether], zeros[kTogether];
      FLRC_UNROLL
      for (int i = 0; i < kTogether; ++i) {
        const int unit = u + i * sharing;
        scales[i] = Word4{0, 0, 0, 0};
        zeros[i] = linears::kNoZeros;
        if (unit >= count || k >= job.width) continue;
        scales[i] = linears::scalesAt(job.scale, first + unit, job.storedRank, k);
        if constexpr (kType == Dtype::int4) {
          zeros[i] = linears::zerosAt(job.zero, first + unit, job.storedRank, k);
        }
      }
      if (u == own) receiveOctet(job.from, job.width, k, tag, value);
      FLRC_UNROLL
      for (int i = 0; i < kTogether; ++i) {
        if (u + i * sharing >= count) continue;
        const Shared<Word4> unit = areas.x + (u + i * sharing) * job.unitWords;
        float scaled[8];
        FLRC_UNROLL
        for (int v = 0; v < 8; ++v) scaled[v] = value[v];
        linears::scaleOctet(scales[i], scaled);
        linears::placeOctet(unit + group * 8, part, scaled);
        if constexpr (kType == Dtype::int4) unit[octets / 4 * 8 + group * 4 + part] = zeros[i];
      }
    }
  }
}

}  // namespace flrc::gpu::step
