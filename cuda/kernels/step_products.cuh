#pragma once

#include "kernels/step_inputs.cuh"
#include "kernels/step_ring.cuh"

// A block's lines of a step's product times its input, and where what comes of them goes.

namespace flrc::gpu::step {

// Where a line's result goes as an output.
struct Output {
  int index;
  float bias;
};
FLRC_DEVICE Output outputOf(const StepJob& job, int line) {
  if (job.y == nullptr && job.plain == nullptr) return {0, 0.0f};
  const int index = job.places != nullptr ? job.places[line] : line;
  return {index, job.bias != nullptr ? job.bias[index] : 0.0f};
}

// Sums of the slices of a piece of lines [first, end): [line][slice]. kUnits: each unit of lines has an input.
template <Dtype kType, bool kUnits>
FLRC_DEVICE void multiplyPiece(const Areas& areas, const StepJob& job, int first, int end, Ring& ring) {
  constexpr int kGroups = linears::Strip<kType>::kGroups, kScaleBytes = kUnits ? 0 : scaleBytes(kType);
  const Walk walk = walkOf(job.strips, job.bits);
  const int part = laneIndex() % 4;
  // The only column's.
  const bool isFirst = laneIndex() < 4;
  for (int tile = walk.first; first + tile * kTileLines < end; tile += walk.step) {
    const int line = first + tile * kTileLines, after = end - line;
    const int lines = after < kTileLines ? after : kTileLines, own = line + laneIndex() / 4;
    const bool there = own < end && own >= job.begin;
    Shared<const Word4> x = areas.x;
    if constexpr (kUnits) x += (line / kUnit - first / kUnit) * job.unitWords;
    const Shared<const Word4> zeros = x + job.strips * (kGroups * 8);
    linears::Sums sums;
    for (int strip = walk.begin; strip < walk.end; strip += kRecordStrips) {
      const int left = walk.end - strip, strips = left < kRecordStrips ? left : kRecordStrips;
      const int bytes = recordBytes(lines, strips, kScaleBytes), stride = lineStride(strips);
      const Shared<const uint8_t> record = ring.next(bytes);
      const linears::Scales scales(record + (lines * stride + strip % kScaledStrips * kScaleBytes),
                                   scaleStride(kScaleBytes), lines);
      linears::addRun<kType, true>(record + (laneIndex() / 4 * stride + part * 16), there, scales, kUnits,
                                   isFirst, x + (strip * (kGroups * 8) + part),
                                   zeros + (strip * (kGroups * 4) + part), strip - walk.begin, strips, sums);
      ring.release(bytes);
    }
    if (!isFirst) continue;
    FLRC_UNROLL
    for (int i = 0; i < 2; ++i) {
      float chains[8];
      FLRC_UNROLL
      for (int k = 0; k < 8; ++k) chains[k] = sums.value[k / 2][k % 2 * 2 + i];
      areas.partial[((tile * kTileLines + laneIndex() * 2 + i) << job.bits) + walk.slice] =
          linears::addedUp(chains);
    }
  }
}

// The results of a piece: eight lanes have one, each a slice. `output`: where the lane's first one goes.
// `kept`: where the job's results stay, if they do.
FLRC_DEVICE void sendPiece(const Areas& areas, const StepJob& job, int first, int end, uint32_t base,
                           Output output, Shared<float> kept) {
  static_assert(kWarps <= 8, "a slice for each of eight lanes");
  const int slice = laneIndex() % 8;
  for (int begin = first + warpIndex() * 4; begin < end; begin += 4 * kWarps) {
    const int line = begin + laneIndex() / 8;
    float total =
        line < end && slice < 1 << job.bits ? areas.partial[((line - first) << job.bits) + slice] : 0.0f;
    FLRC_UNROLL
    for (int mask = 4; mask > 0; mask /= 2) total += shuffleXor(total, mask);
    if (line >= end || line < job.begin || slice > 0) continue;
    if (kept != nullptr) kept[line - job.begin] = total;
    if (job.t != nullptr) sendTagged(job.t + line, total, base + static_cast<uint32_t>(job.sends.t));
    if (begin >= first + 4 * kWarps) output = outputOf(job, line);
    if (job.y != nullptr) {
      sendTagged(job.y + output.index, total + output.bias, base + static_cast<uint32_t>(job.sends.y));
    }
    if (job.plain != nullptr) Global<float>(job.plain)[output.index] = total + output.bias;
  }
}

template <Dtype kType, bool kUnits>
FLRC_DEVICE void multiplyLines(const StepParams& p, const Areas& areas, const StepJob& job, uint32_t base,
                               Ring& ring, Shared<float> kept) {
  int end = job.begin;
  for (int first = firstTile(job.begin, job.unitWords); end < job.end; first = end) {
    end = pieceEnd(p, first, job.end, job.bits, job.unitWords);
    // Known before the sums are.
    const int own = first + warpIndex() * 4 + laneIndex() / 8;
    const Output output = own >= job.begin && own < end ? outputOf(job, own) : Output{0, 0.0f};
    if constexpr (kUnits) {
      placeUnits<kType>(areas, job, first / kUnit, (end - 1) / kUnit - first / kUnit + 1,
                        base + static_cast<uint32_t>(job.wants));
    }
    syncBlock();
    multiplyPiece<kType, kUnits>(areas, job, first, end, ring);
    syncBlock();
    sendPiece(areas, job, first, end, base, output, kept);
  }
}

FLRC_DEVICE void multiplyJob(const StepParams& p, const Areas& areas, const StepJob& job, uint32_t base,
                             Ring& ring, Shared<float> kept) {
  const bool units = job.unitWords > 0;
  switch (job.dtype) {
    case Dtype::int8:
      return units ? multiplyLines<Dtype::int8, true>(p, areas, job, base, ring, kept)
                   : multiplyLines<Dtype::int8, false>(p, areas, job, base, ring, kept);
    case Dtype::int4:
      return units ? multiplyLines<Dtype::int4, true>(p, areas, job, base, ring, kept)
                   : multiplyLines<Dtype::int4, false>(p, areas, job, base, ring, kept);
    default:
      return multiplyLines<Dtype::bf16, false>(p, areas, job, base, ring, kept);
  }
}

}  // namespace flrc::gpu::step
