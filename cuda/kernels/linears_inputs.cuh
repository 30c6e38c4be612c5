#pragma once

#include "kernels/linears_shares.cuh"
#include "kernels/weights.cuh"

// Inputs in shared memory as kernels/linears_stream.cuh multiplies them: each activation as two bf16 values
// whose sum it is, to 2^-18 of it.

namespace flrc::gpu::linears {

// What is in the inputs' area.
struct Loaded {
  int job = -1, unit = -1, pass = -1;
  FLRC_DEVICE bool operator==(const Loaded& other) const {
    return job == other.job && unit == other.unit && pass == other.pass;
  }
};

// The inputs that a piece needs. Jobs that are rows share theirs, and so do bf16 outputs of one job.
template <Dtype kType>
FLRC_DEVICE Loaded inputsOf(const Lines& lines, const Piece& piece, int pass) {
  if (!lines.panels) return {0, 0, pass};
  return {piece.job, kType == Dtype::bf16 ? 0 : piece.first / kUnit, pass};
}

FLRC_DEVICE void readX(const LinearsParams& p, int column, int k, float (&out)[8]) {
  const Global<const float> from = p.x + (static_cast<int64_t>(column) * p.inputs + k);
  if (p.inputs % 4 == 0 && k + 8 <= p.inputs) {
    const Float4 first = pointerCast<const Float4>(from)[0], second = pointerCast<const Float4>(from)[1];
    out[0] = first.x, out[1] = first.y, out[2] = first.z, out[3] = first.w;
    out[4] = second.x, out[5] = second.y, out[6] = second.z, out[7] = second.w;
    return;
  }
  FLRC_UNROLL
  for (int i = 0; i < 8; ++i) out[i] = k + i < p.inputs ? from[i] : 0.0f;
}

// Ranks [k, k + 8) of a job's t as soon as they are there, times the unit's scales.
template <Dtype kType>
FLRC_DEVICE void readT(const LinearsParams& p, const PanelJob& job, int unit, int column, int k, uint32_t tag,
                       float (&out)[8]) {
  const Global<const uint64_t> from =
      Global<const uint64_t>(p.t) + (static_cast<int64_t>(column) * p.tWidth + job.t + k);
  if (k + 8 <= job.rank) {
    receiveTagged<8>(from, tag, out);
  } else {
    FLRC_UNROLL
    for (int i = 0; i < 8; ++i) {
      float one[1] = {0};
      if (k + i < job.rank) receiveTagged<1>(from + i, tag, one);
      out[i] = one[0];
    }
  }
  if constexpr (kType != Dtype::bf16) {
    const int64_t first = static_cast<int64_t>(unit) * job.storedRank + k;
    FLRC_UNROLL
    for (int i = 0; i < 8; ++i) {
      if (k + i < job.rank) out[i] *= widen(job.scale[first + i]);
    }
  }
}

// Two neighbouring values as bf16, and as bf16 what is left of them.
struct Parts {
  uint32_t first, second;
};
FLRC_DEVICE Parts partsOf(float low, float high) {
  const uint32_t first = roundHalves(low, high);
  return {first, roundHalves(low - bitsToFloat(first << 16), high - bitsToFloat(first & 0xffff0000u))};
}

// Of int4 outputs, the zeros of ranks [k, k + 8) as fragments have weights: 128 and more.
FLRC_DEVICE Word4 zerosOf(const PanelJob& job, int unit, int k) {
  const int64_t first = static_cast<int64_t>(unit) * job.storedRank + k;
  uint32_t pair[4];
  FLRC_UNROLL
  for (int i = 0; i < 4; ++i) {
    const uint32_t low = k + 2 * i < job.rank ? job.zero[first + 2 * i] : 0,
                   high = k + 2 * i + 1 < job.rank ? job.zero[first + 2 * i + 1] : 0;
    pair[i] = kHalves128 | low | high << 16;
  }
  return {pair[0], pair[1], pair[2], pair[3]};
}

// All inputs of a pass: a warp loads what it multiplies by itself, together with the others of its slice.
// Barriers before and after are the caller's.
template <Dtype kType>
FLRC_DEVICE void loadInputs(const LinearsParams& p, const Areas& areas, const Lines& lines, const Piece& piece,
                            int pass, uint32_t tag) {
  constexpr int kGroups = Strip<kType>::kGroups;
  const Cut& cut = lines.cut;
  const int slice = warpIndex() & ((1 << cut.bits) - 1), sharing = kWarps >> cut.bits;
  const int begin = sliceBegin(cut.strips, cut.bits, slice) + pass * cut.atOnce,
            end = sliceBegin(cut.strips, cut.bits, slice + 1), groups = cut.atOnce * kGroups;
  const int unit = piece.first / kUnit, part = laneIndex() % 4;
  const PanelJob& job = p.panels[lines.panels ? piece.job - p.rowJobs : 0];
  const int firstGroup = slice * groups;
  const auto kOf = [&](int group) {
    return (begin + group / kGroups) * Strip<kType>::kWeights + group % kGroups * kUnit + part * 8;
  };
  const auto there = [&](int group) {
    return group < groups && begin + group / kGroups < end && kOf(group) < lines.inputs;
  };
  // Of so many groups the values are on their way together.
  constexpr int kTogether = 4;
  const int step = 8 * sharing;
  for (int column = 0; column < p.columns; ++column) {
    for (int first = (warpIndex() >> cut.bits) * 8 + laneIndex() / 4; first < groups;
         first += kTogether * step) {
      float value[kTogether][8] = {};
      if (lines.panels) {
        FLRC_UNROLL
        for (int i = 0; i < kTogether; ++i) {
          const int group = first + i * step;
          if (there(group)) readT<kType>(p, job, unit, column, kOf(group), tag, value[i]);
        }
      } else {
        FLRC_UNROLL
        for (int i = 0; i < kTogether; ++i) {
          const int group = first + i * step;
          if (there(group)) readX(p, column, kOf(group), value[i]);
        }
      }
      FLRC_UNROLL
      for (int i = 0; i < kTogether; ++i) {
        const int group = first + i * step;
        if (group >= groups) continue;
        const int at = column * columnWords(p.xGroups) + (firstGroup + group) * 8 + part;
        FLRC_UNROLL
        for (int half = 0; half < 2; ++half) {
          const Parts low = partsOf(value[i][4 * half], value[i][4 * half + 1]),
                      high = partsOf(value[i][4 * half + 2], value[i][4 * half + 3]);
          areas.x[at + 4 * half] = Word4{low.first, low.second, high.first, high.second};
        }
        if (kType == Dtype::int4 && lines.panels && column == 0) {
          areas.x[p.columns * columnWords(p.xGroups) + (firstGroup + group) * 4 + part] =
              zerosOf(job, unit, kOf(group));
        }
      }
    }
  }
}

}  // namespace flrc::gpu::linears
