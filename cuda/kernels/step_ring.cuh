#pragma once

#include <cstring>

#include "kernels/linears_stream.cuh"
#include "kernels/step.h"

// The weights of a step on their way to a warp: all that it multiplies, job after job, by bulk copies into a
// ring of its own, as far ahead as the ring has room, whatever the jobs before still wait for.

namespace flrc::gpu::step {

inline constexpr int kThreads = linears::kThreads;
inline constexpr int kWarps = linears::kWarps;
inline constexpr int kTileLines = linears::kTileLines;
// Copies under way to a warp, each of up to so many strips of a tile's lines.
inline constexpr int kRecords = 8;
inline constexpr int kRecordStrips = 8;
// Sums of slices that are kept at a time.
inline constexpr int kPartials = 2048;

// From one line of a record to the next: neighbours begin in different banks.
FLRC_ANYWHERE constexpr int lineStride(int strips) { return (strips | 1) * kStripBytes; }
// What strips are scaled by comes in fours of them, whose bytes copies can take (with the last ones of a row
// come some of its weights). Behind the lines of a record each has room for those fours that its strips are of.
inline constexpr int kScaledStrips = 4;
FLRC_ANYWHERE constexpr int scaleStride(int scaleBytes) {
  return (kRecordStrips / kScaledStrips + 1) * kScaledStrips * scaleBytes;
}
FLRC_ANYWHERE constexpr int recordBytes(int lines, int strips, int scaleBytes) {
  return lines * (lineStride(strips) + scaleStride(scaleBytes));
}
inline constexpr int kRecordBytes = recordBytes(kTileLines, kRecordStrips, scaleBytes(Dtype::int4));

// Where the first tile of a product's lines begins. No tile has lines of two units: where each has an input of
// its own, the first may begin before the lines.
FLRC_DEVICE int firstTile(int begin, int unitWords) {
  return unitWords > 0 ? begin / kTileLines * kTileLines : begin;
}
// The end of the lines from `first` on that are multiplied between two barriers: as many as there is room for,
// for their sums and for the inputs of their units.
FLRC_DEVICE int pieceEnd(const StepParams& p, int first, int end, int bits, int unitWords) {
  int most = kPartials >> bits;
  if (unitWords > 0) {
    const int inUnits = p.inputWords / unitWords * kUnit;
    most = (inUnits < most ? inUnits : most) - first % kUnit;
  }
  return end - first < most ? end : first + most;
}

// What a warp does of them: strips [begin, end) of tiles first, first + step, ... of a piece.
struct Walk {
  int slice, begin, end, first, step;
};
FLRC_DEVICE Walk walkOf(int strips, int bits) {
  const int slice = warpIndex() & ((1 << bits) - 1);
  return {slice, linears::sliceBegin(strips, bits, slice), linears::sliceBegin(strips, bits, slice + 1),
          warpIndex() >> bits, kWarps >> bits};
}

class Ring {
  static constexpr int kLinesWords = sizeof(StepLines) / sizeof(uint32_t);
  static_assert(kLinesWords <= 32);

 public:
  FLRC_DEVICE Ring(const StepParams& params, Shared<uint8_t> data, Shared<uint64_t> phases)
      : p_(params),
        data_(data),
        phases_(phases),
        index_(params.firstLines[blockX()]),
        end_(params.firstLines[blockX() + 1]) {
    if (laneIndex() < kRecords) phaseInit(phases_ + laneIndex(), 1);
    await(index_--);
    nextLines();
    settle();
    refill();
  }

  // The record that was fetched first of those not yet read, of so many bytes.
  FLRC_DEVICE Shared<const uint8_t> next(int bytes) {
    phaseWait(phases_ + static_cast<int>(read_ % kRecords), read_ / kRecords & 1);
    if (out_ + bytes > p_.ringBytes) {
      held_ -= p_.ringBytes - out_;
      out_ = 0;
    }
    return data_ + out_;
  }
  // It has been read. While half of the ring is still on its way there is time for what comes next before more
  // is fetched.
  FLRC_DEVICE void release(int bytes) {
    out_ += bytes;
    held_ -= bytes;
    ++read_;
    if (2 * held_ < p_.ringBytes) refill();
  }

  // Fetches as much as there is room for.
  FLRC_DEVICE void refill() {
    // All lanes have read what is overwritten.
    syncWarp();
    while (index_ < end_ && fetch()) {
    }
  }

 private:
  FLRC_DEVICE bool fetch() {
    const int inSlice = walk_.end - strip_, strips = inSlice < kRecordStrips ? inSlice : kRecordStrips;
    const int line = piece_ + tile_ * kTileLines, after = now_.end - line;
    const int lines = after < kTileLines ? after : kTileLines,
              before = line < now_.begin ? now_.begin - line : 0;
    const int bytes = recordBytes(lines, strips, now_.scaleBytes);
    // So that there is room for any record once all have been read.
    if (held_ == 0) in_ = out_ = 0;
    const bool wraps = in_ + bytes > p_.ringBytes;
    const int skipped = wraps ? p_.ringBytes - in_ : 0;
    if (fetched_ - read_ == kRecords || held_ + skipped + bytes > p_.ringBytes) return false;
    if (wraps) in_ = 0;
    const Shared<uint64_t> phase = phases_ + static_cast<int>(fetched_ % kRecords);
    const int four = strip_ / kScaledStrips, afterFours = (strip_ + strips + kScaledStrips - 1) / kScaledStrips;
    const int fourBytes = kScaledStrips * now_.scaleBytes, scaled = (afterFours - four) * fourBytes;
    const int each = strips * kStripBytes + scaled;
    if (laneIndex() == 0) phaseExpect(phase, static_cast<uint32_t>(each * (lines - before)));
    syncWarp();
    // A lane for the weights of each line, and one for what they are scaled by.
    const int i = laneIndex() % kTileLines;
    const bool scales = laneIndex() >= kTileLines;
    if (i >= before && i < lines && laneIndex() < (scaled > 0 ? 2 : 1) * kTileLines) {
      const Shared<uint8_t> to =
          data_ + (in_ + (scales ? lines * lineStride(strips) + i * scaleStride(now_.scaleBytes)
                                 : i * lineStride(strips)));
      const Global<const uint8_t> from =
          now_.data + (static_cast<int64_t>(line + i) * now_.lineBytes +
                       (scales ? four * fourBytes : now_.headBytes + strip_ * kStripBytes));
      // What blocks send each other, and the lists of jobs, are to stay in the L2 cache.
      bulkCopyOnce(to, from, static_cast<uint32_t>(scales ? scaled : strips * kStripBytes), phase);
    }
    in_ += bytes;
    held_ += skipped + bytes;
    ++fetched_;
    strip_ += strips;
    if (strip_ == walk_.end) {
      strip_ = walk_.begin;
      tile_ += walk_.step;
      settle();
    }
    return true;
  }

  FLRC_DEVICE void nextLines() {
    if (++index_ >= end_) return;
    uint32_t words[kLinesWords];
    FLRC_UNROLL
    for (int i = 0; i < kLinesWords; ++i) words[i] = shuffle(next_, i);
    std::memcpy(&now_, words, sizeof now_);
    // Read while those now at hand are fetched.
    await(index_ + 1);
    walk_ = walkOf(now_.strips, now_.bits);
    piece_ = firstTile(now_.begin, now_.unitWords);
    tile_ = walk_.first;
    strip_ = walk_.begin;
  }

  // A lane has a word of what comes next: all of it would take registers in every lane.
  FLRC_DEVICE void await(int index) {
    if (index < end_ && laneIndex() < kLinesWords) {
      next_ = pointerCast<const uint32_t>(p_.lines + index)[laneIndex()];
    }
  }

  // To the next piece, and the next lines, where these have no tile for the warp.
  FLRC_DEVICE void settle() {
    while (index_ < end_) {
      const int end = pieceEnd(p_, piece_, now_.end, now_.bits, now_.unitWords);
      if (piece_ + tile_ * kTileLines < end) return;
      tile_ = walk_.first;
      piece_ = end;
      if (end == now_.end) nextLines();
    }
  }

  const StepParams& p_;
  Shared<uint8_t> data_;
  Shared<uint64_t> phases_;
  // What is fetched next.
  int index_, end_;
  StepLines now_{};
  uint32_t next_ = 0;
  Walk walk_{};
  int piece_ = 0, tile_ = 0, strip_ = 0;
  // The ring: where the next record goes and where the first one lies, and bytes that are taken.
  int in_ = 0, out_ = 0, held_ = 0;
  unsigned fetched_ = 0, read_ = 0;
};

}  // namespace flrc::gpu::step
