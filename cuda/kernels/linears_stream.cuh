#pragma once

#include <type_traits>

#include "kernels/linears_inputs.cuh"

// Lines times the inputs in shared memory, on tensor cores. Of m16n8k16, n are eight lines, k two steps through
// a group of 32 weights and m eight columns' first parts and their second ones; with less columns some of m is
// idle, and costs nothing that matters beside reading the weights.

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

// What a tile's lines are scaled by, from a strip on: `bytes` behind `at`, of the line whose weights the lane
// has and of the two whose sums it has. Of lines that are none, any other's.
struct Scales {
  Shared<const uint8_t> at;
  int own, sums[2];

  FLRC_DEVICE Scales(Shared<const uint8_t> from, int lineBytes, int lines) : at(from) {
    const auto of = [&](int line) { return (line < lines ? line : lines - 1) * lineBytes; };
    own = of(laneIndex() / 4);
    sums[0] = of(laneIndex() % 4 * 2);
    sums[1] = of(laneIndex() % 4 * 2 + 1);
  }

  FLRC_DEVICE Scales behind(int bytes) const {
    Scales scales = *this;
    scales.at += bytes;
    return scales;
  }
  // Of a group of the strip.
  FLRC_DEVICE float scale(int sum, int group) const {
    return widen(pointerCast<const uint16_t>(at + sums[sum])[group]);
  }
  FLRC_DEVICE uint32_t zero(int groups, int group) const { return at[own + groups * 2 + group]; }
};

// A warp's weights in the order of its walk, by asynchronous copies (loads to registers would be waited for all
// at once): strip by strip, lane 4 i + j fetching part j of line i, which it reads itself, and of a row what it
// is scaled by.
template <Dtype kType>
class SlotStream {
 public:
  static constexpr int kStrips = 1;  // that next() gives

  FLRC_DEVICE explicit SlotStream(const Areas& areas)
      : slots_(areas.weights + warpIndex() * (Place::kCount * Place::kBytes)) {
    // A tile with less than eight lines leaves slots as they are, whose sums nobody uses.
    for (int at = laneIndex() * 4; at < Place::kCount * Place::kBytes; at += 32 * 4) {
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
    const Cut& cut = lines.cut;
    const int part = laneIndex() % 4;
    const int64_t jump = static_cast<int64_t>(nextTile_) * cut.lineStrips * kStripBytes;
    const Global<const uint8_t> line =
        lines.data + static_cast<int64_t>(piece.first + line_) * cut.lineStrips * kStripBytes;
    at_ = line + ((cut.headStrips + walk.begin) * kStripBytes + part * 16);
    jump_ = jump - inTile_ * kStripBytes;
    if constexpr (kScaleBytes > 0) {
      scaled_ = !lines.panels && part * 4 < kScaleBytes;
      scale_ = line + (walk.begin * kScaleBytes + part * 4);
      scaleJump_ = jump - inTile_ * kScaleBytes;
    }
    FLRC_UNROLL
    for (int a = 0; a < Place::kCount; ++a) fetch();
  }

  // The strips that were fetched first of those not yet read: where this lane's 16 bytes of the first of them
  // lie. The warp's scales lie at scales().
  FLRC_DEVICE Shared<const uint8_t> next() {
    waitCopies<Place::kCount - 1>();
    if constexpr (kScaleBytes > 0) syncWarp();
    return slots_ + (slot_ + laneIndex() * 16);
  }
  FLRC_DEVICE Scales scales() const { return {slots_ + (slot_ + Place::kScales), kScaleBytes, kTileLines}; }

  // What comes next in the walk, to where what was read last is.
  FLRC_DEVICE void fetch() {
    // Scales are read by lanes that have not fetched them.
    if constexpr (kScaleBytes > 0) syncWarp();
    const Shared<uint8_t> to = slots_ + slot_;
    if (line_ < count_) {
      copyAsync<16>(to + laneIndex() * 16, at_);
      if constexpr (kScaleBytes > 0) {
        if (scaled_) {
          copyAsync<4>(to + (Place::kScales + laneIndex() / 4 * kScaleBytes + laneIndex() % 4 * 4), scale_);
        }
      }
    }
    commitCopies();
    slot_ += Place::kBytes;
    if (slot_ == Place::kCount * Place::kBytes) slot_ = 0;
    at_ += kStripBytes;
    if constexpr (kScaleBytes > 0) scale_ += kScaleBytes;
    if (--left_ > 0) [[likely]]
      return;
    left_ = inTile_;
    line_ += nextTile_;
    at_ += jump_;
    if constexpr (kScaleBytes > 0) scale_ += scaleJump_;
  }

 private:
  using Place = Slot<kType>;
  static constexpr int kScaleBytes = scaleBytes(kType);

  Shared<uint8_t> slots_;
  int slot_ = 0;              // in bytes
  int line_ = 0, count_ = 0;  // the lane's line of the tile that is fetched, and the lines of the piece
  int left_ = 0, inTile_ = 0, nextTile_ = 0;
  Global<const uint8_t> at_ = nullptr;
  int64_t jump_ = 0;
  // The four bytes that the lane fetches of what its line is scaled by, if it does.
  bool scaled_ = false;
  Global<const uint8_t> scale_ = nullptr;
  int64_t scaleJump_ = 0;
};

// The same for bf16 by bulk copies, a lane for each line of a tile, several strips at once (sm_90 and newer):
// they pass by the queue in which a multiprocessor's other loads wait for one another.
class BulkStream {
 public:
  static constexpr int kStrips = Stage::kStrips;

  FLRC_DEVICE explicit BulkStream(const Areas& areas)
      : stages_(areas.weights + warpIndex() * (Stage::kCount * Stage::kBytes)),
        phases_(areas.phases + warpIndex() * Stage::kCount) {
    if (laneIndex() < Stage::kCount) phaseInit(phases_ + laneIndex(), 1);
    syncWarp();
  }

  FLRC_DEVICE void begin(const Lines& lines, const Walk& walk, const Piece& piece) {
    tile_ = walk.first;
    tiles_ = walk.tiles;
    step_ = walk.step;
    count_ = piece.count;
    strips_ = walk.end - walk.begin;
    strip_ = 0;
    lineBytes_ = static_cast<int64_t>(lines.cut.lineStrips) * kStripBytes;
    at_ =
        lines.data + ((piece.first + tile_ * kTileLines + laneIndex()) * lineBytes_ + walk.begin * kStripBytes);
    FLRC_UNROLL
    for (int a = 0; a < Stage::kCount; ++a) fetchOne();
  }

  FLRC_DEVICE Shared<const uint8_t> next() {
    const unsigned stage = read_ % Stage::kCount;
    phaseWait(phases_ + static_cast<int>(stage), read_ / Stage::kCount & 1);
    ++read_;
    return stages_ + (static_cast<int>(stage) * Stage::kBytes + laneIndex() / 4 * Stage::kLineBytes +
                      laneIndex() % 4 * 16);
  }
  FLRC_DEVICE Scales scales() const { return {stages_, 0, kTileLines}; }

  FLRC_DEVICE void fetch() {
    // All lanes have read what is overwritten.
    syncWarp();
    fetchOne();
  }

 private:
  FLRC_DEVICE void fetchOne() {
    if (tile_ >= tiles_) return;
    const int left = strips_ - strip_, strips = left < kStrips ? left : kStrips;
    const int after = count_ - tile_ * kTileLines, lines = after < kTileLines ? after : kTileLines;
    const auto stage = static_cast<int>(fetched_ % Stage::kCount);
    const Shared<uint64_t> phase = phases_ + stage;
    const auto bytes = static_cast<uint32_t>(strips * kStripBytes);
    if (laneIndex() == 0) phaseExpect(phase, bytes * static_cast<uint32_t>(lines));
    syncWarp();
    if (laneIndex() < lines) {
      bulkCopy(stages_ + (stage * Stage::kBytes + laneIndex() * Stage::kLineBytes), at_ + strip_ * kStripBytes,
               bytes, phase);
    }
    ++fetched_;
    strip_ += strips;
    if (strip_ < strips_) return;
    strip_ = 0;
    tile_ += step_;
    at_ += step_ * kTileLines * lineBytes_;
  }

  Shared<uint8_t> stages_;
  Shared<uint64_t> phases_;
  unsigned fetched_ = 0, read_ = 0;
  int tile_ = 0, tiles_ = 0, step_ = 0, count_ = 0;
  int strip_ = 0, strips_ = 0;  // of the walk's strips of a tile
  int64_t lineBytes_ = 0;
  Global<const uint8_t> at_ = nullptr;  // the lane's line of the tile that is fetched
};

// Sums of a tile: [chain][4 of a lane]: two lines of a column's first parts, and of its second ones.
// Neighbouring products go to different chains, for each waits for the one before it in its own.
struct Sums {
  static constexpr int kChains = 4;
  float value[kChains][4] = {};
};
FLRC_DEVICE float addedUp(const float (&sums)[Sums::kChains * 2]) {
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

FLRC_DEVICE void toWords(const Word4& from, uint32_t (&to)[4]) {
  to[0] = from.x;
  to[1] = from.y;
  to[2] = from.z;
  to[3] = from.w;
}

// Adds one strip of a tile to two chains, the other two for every other strip. `used`: there is a column
// lane / 4, of which `x` are the lane's inputs of the strip's first group; what becomes of others is not used,
// and not reading them leaves shared memory to the weights. `zero`: the zeros of int4 panels.
template <Dtype kType>
FLRC_DEVICE void addStrip(const Word4& word, const Scales& scales, bool panels, bool used,
                          Shared<const Word4> x, Shared<const Word4> zero, float (&first)[4],
                          float (&second)[4]) {
  constexpr int kGroups = Strip<kType>::kGroups;
  uint32_t strip[4];
  toWords(word, strip);
  FLRC_UNROLL
  for (int group = 0; group < kGroups; ++group) {
    uint32_t inputs[2][4] = {}, zeros[4] = {}, pairs[4];
    FLRC_UNROLL
    for (int step = 0; step < 2; ++step) {
      if (used) toWords(x[group * 8 + step * 4], inputs[step]);
    }
    if constexpr (kType == Dtype::int4) {
      if (panels) {
        toWords(zero[group * 4], zeros);
      } else {
        const uint32_t one = scales.zero(kGroups, group);
        FLRC_UNROLL
        for (int i = 0; i < 4; ++i) zeros[i] = kHalves128 | one | one << 16;
      }
    }
    weightPairs<kType>(strip, group, zeros, pairs);
    if constexpr (kType == Dtype::bf16) {
      multiplyFragments(first, inputs[0], {pairs[0], pairs[1]});
      multiplyFragments(second, inputs[1], {pairs[2], pairs[3]});
    } else {
      // Rows have a scale for each group, so that each has a sum of its own.
      float whole[4] = {};
      multiplyFragments(whole, inputs[0], {pairs[0], pairs[1]});
      multiplyFragments(whole, inputs[1], {pairs[2], pairs[3]});
      FLRC_UNROLL
      for (int i = 0; i < 4; ++i) {
        float& sum = group % 2 == 0 ? first[i] : second[i];
        if (panels) {
          sum += whole[i];
        } else {
          sum = fusedMultiplyAdd(scales.scale(i % 2, group), whole[i], sum);
        }
      }
    }
  }
}

// kCount strips of a tile, the first of them number `strip` of the slice, of which a lane's 16 bytes lie at
// `at` if its line is there. Strips go to two chains each by turns, which passes begin at even ones of.
template <Dtype kType, int kCount>
FLRC_DEVICE void addStrips(Shared<const uint8_t> at, bool there, const Scales& scales, bool panels, bool used,
                           Shared<const Word4> x, Shared<const Word4> zero, int strip, Sums& sums) {
  constexpr int kGroups = Strip<kType>::kGroups;
  Word4 word[kCount];
  FLRC_UNROLL
  for (int i = 0; i < kCount; ++i) {
    word[i] = Word4{0, 0, 0, 0};
    if (there) word[i] = pointerCast<const Word4>(at + i * kStripBytes)[0];
  }
  FLRC_UNROLL
  for (int i = 0; i < kCount; ++i) {
    const Shared<const Word4> inputs = x + i * (kGroups * 8), zeros = zero + i * (kGroups * 4);
    const Scales own = scales.behind(i * scaleBytes(kType));
    if (kCount > 1 ? i % 2 == 0 : strip % 2 == 0) {
      addStrip<kType>(word[i], own, panels, used, inputs, zeros, sums.value[0], sums.value[1]);
    } else {
      addStrip<kType>(word[i], own, panels, used, inputs, zeros, sums.value[2], sums.value[3]);
    }
  }
}

// `count` strips from number `first` of the slice on. kSeveral: many of them lie there at once; without a
// branch between them they do not wait for each other's reads.
template <Dtype kType, bool kSeveral>
FLRC_DEVICE void addRun(Shared<const uint8_t> at, bool there, const Scales& scales, bool panels, bool used,
                        Shared<const Word4> x, Shared<const Word4> zero, int first, int count, Sums& sums) {
  constexpr int kGroups = Strip<kType>::kGroups;
  const auto add = [&](auto atOnce, int i) {
    addStrips<kType, decltype(atOnce)::value>(at + i * kStripBytes, there, scales.behind(i * scaleBytes(kType)),
                                              panels, used, x + i * (kGroups * 8), zero + i * (kGroups * 4),
                                              first + i, sums);
  };
  int i = 0;
  if constexpr (kSeveral) {
    // Whole numbers take registers, and less of the time goes on reads.
    constexpr int kAtOnce = kType == Dtype::bf16 ? 4 : 2;
    for (; i + kAtOnce <= count; i += kAtOnce) add(std::integral_constant<int, kAtOnce>{}, i);
  }
  for (; i < count; ++i) add(std::integral_constant<int, 1>{}, i);
}

// Sums of a slice that are kept apart: where it is not whole in one pass, those of chains and parts, as the
// next pass goes on with them.
FLRC_ANYWHERE constexpr int sumsKept(int passes) { return passes > 1 ? Sums::kChains * 2 : 1; }

// All of a warp's walk; partial sums to shared memory: [line][slice][sum kept][column]. Lines that are none
// have room there, too. kWhole: in one pass.
template <Dtype kType, bool kWhole, typename Stream>
FLRC_DEVICE void multiply(const LinearsParams& p, const Areas& areas, const Lines& lines, const Piece& piece,
                          int pass, Stream& stream) {
  constexpr int kGroups = Strip<kType>::kGroups;
  const Cut& cut = lines.cut;
  const Walk walk = walkOf(cut, piece, pass);
  const int slice = warpIndex() & ((1 << cut.bits) - 1), strips = walk.end - walk.begin;
  const int firstGroup = slice * cut.atOnce * kGroups, part = laneIndex() % 4, column = laneIndex() / 4;
  const bool used = column < p.columns;
  const Shared<const Word4> all = areas.x;
  const Shared<const Word4> x = all + ((used ? column : 0) * columnWords(p.xGroups) + firstGroup * 8 + part);
  const Shared<const Word4> zero = all + (p.columns * columnWords(p.xGroups) + firstGroup * 4 + part);
  const int kept = kWhole ? 1 : sumsKept(cut.passes), nextLine = kept * p.columns << cut.bits;
  for (int tile = walk.first; tile < walk.tiles; tile += walk.step) {
    const Shared<float> partial =
        areas.partial + ((tile * kTileLines + part * 2) * nextLine + slice * kept * p.columns + column);
    const bool there = tile * kTileLines + laneIndex() / 4 < piece.count;
    Sums sums;
    if (!kWhole && pass > 0 && used) {
      FLRC_UNROLL
      for (int i = 0; i < 16; ++i) sums.value[i / 4][i % 4] = partial[i % 2 * nextLine + i / 2 * p.columns];
    }
    for (int first = 0; first < strips; first += Stream::kStrips) {
      const int left = strips - first, count = left < Stream::kStrips ? left : Stream::kStrips;
      const Shared<const uint8_t> at = stream.next();
      const Scales scales = stream.scales();
      addRun<kType, (Stream::kStrips > 1)>(at, there, scales, lines.panels, used, x + first * (kGroups * 8),
                                           zero + first * (kGroups * 4), first, count, sums);
      stream.fetch();
    }
    if (!used) continue;
    if (!kWhole && kept > 1) {
      FLRC_UNROLL
      for (int i = 0; i < 16; ++i) partial[i % 2 * nextLine + i / 2 * p.columns] = sums.value[i / 4][i % 4];
    } else {
      FLRC_UNROLL
      for (int i = 0; i < 2; ++i) {
        float kept8[8];
        FLRC_UNROLL
        for (int k = 0; k < 8; ++k) kept8[k] = sums.value[k / 2][k % 2 * 2 + i];
        partial[i * nextLine] = addedUp(kept8);
      }
    }
  }
}

}  // namespace flrc::gpu::linears
