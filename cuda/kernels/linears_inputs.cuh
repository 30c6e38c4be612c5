#pragma once

#include "kernels/linears_shares.cuh"
#include "kernels/octets.cuh"
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

// Of panels, what ranks [k, k + 8) of a unit are scaled by.
FLRC_DEVICE Word4 scalesAt(Global<const uint16_t> scale, int unit, int storedRank, int k) {
  return pointerCast<const Word4>(scale + (unit * scalesOf(storedRank) + k))[0];
}
FLRC_DEVICE void scaleOctet(const Word4& scales, float (&value)[8]) {
  const uint32_t pairs[4] = {scales.x, scales.y, scales.z, scales.w};
  FLRC_UNROLL
  for (int i = 0; i < 4; ++i) {
    float scale[2];
    widenPair(pairs[i], scale);
    value[2 * i] *= scale[0];
    value[2 * i + 1] *= scale[1];
  }
}

// Ranks [k, k + 8) of a job's t as soon as they are there, times the unit's scales.
template <Dtype kType>
FLRC_DEVICE void readT(const LinearsParams& p, const PanelJob& job, int unit, int column, int k, uint32_t tag,
                       float (&out)[8]) {
  const Global<const uint64_t> t =
      Global<const uint64_t>(p.t) + (static_cast<int64_t>(column) * p.tWidth + job.t);
  receiveOctet(t, job.rank, k, tag, out);
  if constexpr (kType != Dtype::bf16) scaleOctet(scalesAt(job.scale, unit, job.storedRank, k), out);
}

// Two neighbouring values as bf16, and as bf16 what is left of them.
struct Parts {
  uint32_t first, second;
};
FLRC_DEVICE Parts partsOf(float low, float high) {
  const uint32_t first = roundHalves(low, high);
  return {first, roundHalves(low - bitsToFloat(first << 16), high - bitsToFloat(first & 0xffff0000u))};
}

// Octet `part` of a group to its two fragments.
FLRC_DEVICE void placeOctet(Shared<Word4> group, int part, const float (&value)[8]) {
  FLRC_UNROLL
  for (int half = 0; half < 2; ++half) {
    const Parts low = partsOf(value[4 * half], value[4 * half + 1]),
                high = partsOf(value[4 * half + 2], value[4 * half + 3]);
    group[part + 4 * half] = Word4{low.first, low.second, high.first, high.second};
  }
}

inline constexpr Word4 kNoZeros = {kHalves128, kHalves128, kHalves128, kHalves128};
// The zeros of int4 panels, of ranks [k, k + 8) of a unit, as fragments have weights: 128 and more.
FLRC_DEVICE Word4 zerosAt(Global<const uint8_t> zero, int unit, int storedRank, int k) {
  const Global<const uint32_t> words = pointerCast<const uint32_t>(zero + (unit * scalesOf(storedRank) + k));
  uint32_t pair[4];
  FLRC_UNROLL
  for (int i = 0; i < 4; ++i) {
    const uint32_t two = words[i / 2] >> i % 2 * 16;
    pair[i] = kHalves128 | (two & 0xffu) | (two & 0xff00u) << 8;
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
    const Global<const float> x = p.x + static_cast<int64_t>(column) * p.inputs;
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
          if (there(group)) readOctet(x, p.inputs, kOf(group), value[i]);
        }
      }
      FLRC_UNROLL
      for (int i = 0; i < kTogether; ++i) {
        const int group = first + i * step;
        if (group >= groups) continue;
        placeOctet(areas.x + (column * columnWords(p.xGroups) + (firstGroup + group) * 8), part, value[i]);
        if (kType == Dtype::int4 && lines.panels && column == 0) {
          areas.x[p.columns * columnWords(p.xGroups) + (firstGroup + group) * 4 + part] =
              there(group) ? zerosAt(job.zero, unit, job.storedRank, kOf(group)) : kNoZeros;
        }
      }
    }
  }
}

}  // namespace flrc::gpu::linears
