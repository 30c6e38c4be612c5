#pragma once

#include "kernels/linears_inputs.cuh"

// Lines times the inputs in shared memory, on tensor cores. Of m16n8k16, n are eight lines, k two steps through
// a group of 32 weights and m eight columns' first parts and their second ones; with less columns some of m is idle,
// and costs nothing that matters beside reading the weights.

namespace flrc::gpu::linears {

// What a warp does of a piece in one pass: strips [begin, end) of tiles first, first + step, ...
struct Walk {
  int begin, end, first, step, tiles;
};

FLRC_DEVICE Walk walkOf(const Cut& cut, const Piece& piece, int pass) {
  const int slice = warpIndex() & ((1 << cut.bits) - 1), last = sliceBegin(cut.strips, cut.bits, slice + 1);
  Walk walk;
  walk.begin = sliceBegin(cut.strips, cut.bits, slice) + pass * cut.atOnce;
  walk.end = walk.begin + cut.atOnce < last ? walk.begin + cut.atOnce : last;
  walk.tiles = walk.begin < walk.end ? (piece.count + kTileLines - 1) / kTileLines : 0;
  walk.first = warpIndex() >> cut.bits;
  walk.step = kWarps >> cut.bits;
  return walk;
}

// Weights under way to a warp's slots in the order of its walk. Lane 4 i + j fetches part j of line i, and reads
// it itself; scales and zeros are fetched by one lane for all. By asynchronous copies: loads to registers would
// be waited for all at once.
template <Dtype kType>
class WeightStream {
 public:
  FLRC_DEVICE explicit WeightStream(const Areas& areas)
      : slots_(areas.slots + warpIndex() * (kAhead * Slot<kType>::kBytes)) {
    // A tile with less than eight lines leaves slots as they are, whose sums nobody uses.
    for (int at = laneIndex() * 4; at < kAhead * Slot<kType>::kBytes; at += 32 * 4) {
      pointerCast<uint32_t>(slots_ + at)[0] = 0;
    }
    syncWarp();
  }

  // Starts at the beginning of a walk.
  FLRC_DEVICE void begin(const Lines& lines, const Walk& walk, const Piece& piece) {
    line_ = walk.tiles > 0 ? walk.first * kTileLines + laneIndex() / 4 : piece.count;
    count_ = piece.count;
    inTile_ = left_ = walk.end - walk.begin;
    nextTile_ = walk.step * kTileLines;
    const int64_t strip = static_cast<int64_t>(piece.first + line_) * lines.cut.storedStrips + walk.begin;
    const int64_t jump = static_cast<int64_t>(nextTile_) * lines.cut.storedStrips - inTile_;
    at_ = lines.data + (strip * kStripBytes + laneIndex() % 4 * 16);
    jump_ = jump * kStripBytes;
    if constexpr (kType != Dtype::bf16) {
      scaled_ = !lines.panels && laneIndex() % 4 == 0;
      scale_ = pointerCast<const uint8_t>(lines.scale) + strip * Slot<kType>::kScaleBytes;
      zero_ = lines.zero + strip * Slot<kType>::kZeroBytes;
      jumpStrips_ = jump;
    }
    FLRC_UNROLL
    for (int a = 0; a < kAhead; ++a) fetch();
  }

  // The strip that was fetched first of those not yet read: where it lies.
  FLRC_DEVICE Shared<const uint8_t> next() {
    waitCopies<kAhead - 1>();
    if constexpr (kType != Dtype::bf16) syncWarp();
    return slots_ + slot_;
  }

  // The next strip of the walk, to the slot that was read last.
  FLRC_DEVICE void fetch() {
    using Place = Slot<kType>;
    const Shared<uint8_t> to = slots_ + slot_;
    if (line_ < count_) {
      copyAsync<16>(to + laneIndex() * 16, at_);
      if constexpr (kType != Dtype::bf16) {
        const int line = laneIndex() / 4;
        if (scaled_) {
          copyAsync<Place::kScaleBytes>(to + (Place::kScales + line * Place::kScaleBytes), scale_);
          if constexpr (kType == Dtype::int4) copyAsync<4>(to + (Place::kZeros + line * 4), zero_);
        }
      }
    }
    commitCopies();
    slot_ += Place::kBytes;
    if (slot_ == kAhead * Place::kBytes) slot_ = 0;
    at_ += kStripBytes;
    advanceScales(1);
    if (--left_ > 0) [[likely]] return;
    left_ = inTile_;
    line_ += nextTile_;
    at_ += jump_;
    if constexpr (kType != Dtype::bf16) advanceScales(jumpStrips_);
  }

 private:
  FLRC_DEVICE void advanceScales(int64_t strips) {
    if constexpr (kType != Dtype::bf16) {
      scale_ += strips * Slot<kType>::kScaleBytes;
      zero_ += strips * Slot<kType>::kZeroBytes;
    }
  }

  Shared<uint8_t> slots_;
  int slot_ = 0;  // in bytes
  int line_ = 0, count_ = 0;  // the lane's line of the tile that is fetched, and the lines of the piece
  int left_ = 0, inTile_ = 0, nextTile_ = 0;
  Global<const uint8_t> at_ = nullptr;
  int64_t jump_ = 0;
  bool scaled_ = false;
  Global<const uint8_t> scale_ = nullptr, zero_ = nullptr;
  int64_t jumpStrips_ = 0;
};

// Sums of a tile: [step][4 of a lane]: two lines of a column's first parts, and of its second ones.
struct Sums {
  float value[2][4] = {};
};

FLRC_DEVICE void toWords(const Word4& from, uint32_t (&to)[4]) {
  to[0] = from.x;
  to[1] = from.y;
  to[2] = from.z;
  to[3] = from.w;
}

// Adds one strip of a tile. `x`: the lane's inputs of the strip's first group, of column lane / 4 or, where there
// is none, of any other, for what becomes of them is not used. `zero`: the zeros of int4 panels.
template <Dtype kType>
FLRC_DEVICE void addStrip(Shared<const uint8_t> slot, bool panels, Shared<const Word4> x, Shared<const Word4> zero,
                          Sums& sums) {
  using Place = Slot<kType>;
  const int line = laneIndex() / 4, part = laneIndex() % 4;
  uint32_t strip[4];
  toWords(pointerCast<const Word4>(slot)[laneIndex()], strip);
  FLRC_UNROLL
  for (int group = 0; group < Strip<kType>::kGroups; ++group) {
    uint32_t inputs[2][4], zeros[4] = {}, pairs[4];
    FLRC_UNROLL
    for (int step = 0; step < 2; ++step) toWords(x[group * 8 + step * 4], inputs[step]);
    if constexpr (kType == Dtype::int4) {
      if (panels) {
        toWords(zero[group * 4], zeros);
      } else {
        const uint32_t one = slot[Place::kZeros + line * 4 + group];
        FLRC_UNROLL
        for (int i = 0; i < 4; ++i) zeros[i] = kHalves128 | one | one << 16;
      }
    }
    weightPairs<kType>(strip, group, zeros, pairs);
    if constexpr (kType == Dtype::bf16) {
      FLRC_UNROLL
      for (int step = 0; step < 2; ++step) {
        multiplyFragments(sums.value[step], inputs[step], {pairs[2 * step], pairs[2 * step + 1]});
      }
    } else {
      // Rows have a scale for each group, so that each has a sum of its own.
      float whole[4] = {};
      FLRC_UNROLL
      for (int step = 0; step < 2; ++step) {
        multiplyFragments(whole, inputs[step], {pairs[2 * step], pairs[2 * step + 1]});
      }
      FLRC_UNROLL
      for (int i = 0; i < 4; ++i) {
        float& sum = sums.value[group % 2][i];
        if (panels) {
          sum += whole[i];
        } else {
          const int scale = Place::kScales / 2 + (part * 2 + i % 2) * Place::kScaleBytes / 2 + group;
          sum = fusedMultiplyAdd(widen(pointerCast<const uint16_t>(slot)[scale]), whole[i], sum);
        }
      }
    }
  }
}

// Sums of a slice that are kept apart: where it is not whole in one pass, those of steps and parts, as the next pass
// goes on with them.
FLRC_DEVICE int sumsKept(const Cut& cut) { return cut.passes > 1 ? 4 : 1; }
FLRC_DEVICE float addedUp(float first0, float first1, float second0, float second1) {
  return (first0 + first1) + (second0 + second1);
}

// All of a warp's walk; partial sums to shared memory: [line][slice][sum kept][column]. Lines that are none have room
// there, too. kWhole: in one pass.
template <Dtype kType, bool kWhole>
FLRC_DEVICE void multiply(const LinearsParams& p, const Areas& areas, const Lines& lines, const Piece& piece, int pass,
                          WeightStream<kType>& stream) {
  constexpr int kGroups = Strip<kType>::kGroups;
  const Cut& cut = lines.cut;
  const Walk walk = walkOf(cut, piece, pass);
  const int slice = warpIndex() & ((1 << cut.bits) - 1), groups = (walk.end - walk.begin) * kGroups;
  const int firstGroup = slice * cut.atOnce * kGroups, part = laneIndex() % 4, column = laneIndex() / 4;
  const bool used = column < p.columns;
  const Shared<const Word4> all = areas.x;
  const Shared<const Word4> x = all + ((used ? column : 0) * columnWords(p.xGroups) + firstGroup * 8 + part);
  const Shared<const Word4> zero = all + (p.columns * columnWords(p.xGroups) + firstGroup * 4 + part);
  const int kept = kWhole ? 1 : sumsKept(cut), nextLine = kept * p.columns << cut.bits;
  for (int tile = walk.first; tile < walk.tiles; tile += walk.step) {
    const Shared<float> partial =
        areas.partial + ((tile * kTileLines + part * 2) * nextLine + slice * kept * p.columns + column);
    Sums sums;
    if (!kWhole && pass > 0 && used) {
      FLRC_UNROLL
      for (int i = 0; i < 8; ++i) sums.value[i / 4][i % 4] = partial[i % 2 * nextLine + i / 2 * p.columns];
    }
    for (int group = 0; group < groups; group += kGroups) {
      addStrip<kType>(stream.next(), lines.panels, x + group * 8, zero + group * 4, sums);
      // Scales are read by lanes that have not fetched them.
      if constexpr (kType != Dtype::bf16) syncWarp();
      stream.fetch();
    }
    if (!used) continue;
    if (!kWhole && kept > 1) {
      FLRC_UNROLL
      for (int i = 0; i < 8; ++i) partial[i % 2 * nextLine + i / 2 * p.columns] = sums.value[i / 4][i % 4];
    } else {
      FLRC_UNROLL
      for (int i = 0; i < 2; ++i) {
        partial[i * nextLine] =
            addedUp(sums.value[0][i], sums.value[1][i], sums.value[0][i + 2], sums.value[1][i + 2]);
      }
    }
  }
}

}  // namespace flrc::gpu::linears
