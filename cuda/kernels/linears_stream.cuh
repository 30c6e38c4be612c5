#pragma once

#include "kernels/linears_inputs.cuh"

// Lines times the inputs in shared memory, on tensor cores. Of m16n8k16, n are eight lines, k two steps through
// a group of 32 weights and m the parts of the columns' activations, of which one column has two: what is
// left of m is idle, and costs nothing that matters beside reading the weights.

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

// Weights under way to a warp's slots in the order of its walk. Lane 4 i + j fetches part j of line i, and
// reads it itself; scales and zeros are fetched by one lane for all. By asynchronous copies: loads to registers
// would be waited for all at once.
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
    return slots_ + slot_ * Slot<kType>::kBytes;
  }

  // The next strip of the walk, to the slot that was read last.
  FLRC_DEVICE void fetch() {
    using Place = Slot<kType>;
    const Shared<uint8_t> to = slots_ + slot_ * Place::kBytes;
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
    slot_ = (slot_ + 1) % kAhead;
    at_ += kStripBytes;
    advanceScales(1);
    if (--left_ > 0) return;
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
  int slot_ = 0;
  int line_ = 0, count_ = 0;  // the lane's line of the tile that is fetched, and the lines of the piece
  int left_ = 0, inTile_ = 0, nextTile_ = 0;
  Global<const uint8_t> at_ = nullptr;
  int64_t jump_ = 0;
  bool scaled_ = false;
  Global<const uint8_t> scale_ = nullptr, zero_ = nullptr;
  int64_t jumpStrips_ = 0;
};

// Sums of a tile: [chain][4 of a lane].
struct Sums {
  float value[2][4] = {};
};

// What a lane has of a strip.
struct Raw {
  uint32_t word[4];
};

FLRC_DEVICE void toWords(const Word4& from, uint32_t (&to)[4]) {
  to[0] = from.x;
  to[1] = from.y;
  to[2] = from.z;
  to[3] = from.w;
}

// Adds one strip of a tile. `x`: the lane's inputs of the strip's first group, of parts i and, with two eights,
// i + 8; where there are no such parts any others do, for what becomes of them is not used.
template <Dtype kType, int kEights>
FLRC_DEVICE void addStrip(Shared<const uint8_t> slot, bool panels, Shared<const Word4> low,
                          Shared<const Word4> high, Shared<const Word4> zero, Sums& sums) {
  using Place = Slot<kType>;
  const int line = laneIndex() / 4, part = laneIndex() % 4;
  uint32_t strip[4];
  toWords(pointerCast<const Word4>(slot)[laneIndex()], strip);
  FLRC_UNROLL
  for (int group = 0; group < Strip<kType>::kGroups; ++group) {
    uint32_t first[4], second[4], zeros[4] = {}, pairs[4];
    toWords(low[group * 4], first);
    if constexpr (kEights > 1) {
      toWords(high[group * 4], second);
    } else {
      FLRC_UNROLL
      for (int i = 0; i < 4; ++i) second[i] = first[i];
    }
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
        multiplyFragments(sums.value[step],
                          {first[2 * step], second[2 * step], first[2 * step + 1], second[2 * step + 1]},
                          {pairs[2 * step], pairs[2 * step + 1]});
      }
    } else {
      // Rows have a scale for each group, so that each has a sum of its own.
      float whole[4] = {};
      FLRC_UNROLL
      for (int step = 0; step < 2; ++step) {
        multiplyFragments(whole, {first[2 * step], second[2 * step], first[2 * step + 1], second[2 * step + 1]},
                          {pairs[2 * step], pairs[2 * step + 1]});
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

// body(index of a partial sum, i) for those of a lane's four sums of a tile that count: of lines 2 j and 2 j +
// 1, and of parts i and i + 8. Partial sums lie by line, slice, chain and part of a column; lines that are none
// have room, too.
template <int kEights, typename Body>
FLRC_DEVICE void forSums(const Cut& cut, int rows, int tile, int chains, int chain, const Body& body) {
  const int slice = warpIndex() & ((1 << cut.bits) - 1), line = tile * kTileLines + laneIndex() % 4 * 2;
  const int row = laneIndex() / 4;
  const int first = (((line << cut.bits) + slice) * chains + chain) * rows + row, nextLine = (chains * rows)
                                                                                             << cut.bits;
  if (row < rows) {
    body(first, 0);
    body(first + nextLine, 1);
  }
  if (kEights > 1 && row + 8 < rows) {
    body(first + 8, 2);
    body(first + 8 + nextLine, 3);
  }
}

// All of a warp's walk; partial sums to shared memory. kWhole: in one pass.
template <Dtype kType, int kEights, bool kWhole>
FLRC_DEVICE void multiply(const LinearsParams& p, const Areas& areas, const Lines& lines, const Piece& piece,
                          int pass, WeightStream<kType>& stream) {
  constexpr int kGroups = Strip<kType>::kGroups;
  const Cut& cut = lines.cut;
  const Walk walk = walkOf(cut, piece, pass);
  const int rows = kParts * p.columns, line = laneIndex() / 4, strips = walk.end - walk.begin;
  const int firstGroup = (warpIndex() & ((1 << cut.bits) - 1)) * cut.atOnce * kGroups;
  const Shared<const Word4> x = pointerCast<const Word4>(areas.x) + (firstGroup * 4 + laneIndex() % 4);
  const auto inputs = [&](int row) { return x + (row < rows ? row : rows - 1) * p.xGroups * 4; };
  const Shared<const Word4> low = inputs(line), high = inputs(line + 8), zero = x + rows * p.xGroups * 4;
  const int chains = !kWhole && cut.passes > 1 ? 2 : 1;
  for (int tile = walk.first; tile < walk.tiles; tile += walk.step) {
    Sums sums;
    if (!kWhole && pass > 0) {
      FLRC_UNROLL
      for (int chain = 0; chain < 2; ++chain) {
        forSums<kEights>(cut, rows, tile, chains, chain,
                         [&](int at, int i) { sums.value[chain][i] = areas.partial[at]; });
      }
    }
    for (int group = 0; group < strips * kGroups * 4; group += kGroups * 4) {
      addStrip<kType, kEights>(stream.next(), lines.panels, low + group, high + group, zero + group, sums);
      // Scales are read by lanes that have not fetched them.
      if constexpr (kType != Dtype::bf16) syncWarp();
      stream.fetch();
    }
    if (!kWhole && chains == 2) {
      FLRC_UNROLL
      for (int chain = 0; chain < 2; ++chain) {
        forSums<kEights>(cut, rows, tile, chains, chain,
                         [&](int at, int i) { areas.partial[at] = sums.value[chain][i]; });
      }
    } else {
      forSums<kEights>(cut, rows, tile, 1, 0,
                       [&](int at, int i) { areas.partial[at] = sums.value[0][i] + sums.value[1][i]; });
    }
  }
}

}  // namespace flrc::gpu::linears
