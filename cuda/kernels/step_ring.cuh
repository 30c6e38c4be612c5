#pragma once

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
inline constexpr int kRecordBytes = kTileLines * lineStride(kRecordStrips);

// Lines that are multiplied between two barriers.
FLRC_DEVICE int pieceLines(int bits) { return kPartials >> bits; }

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
 public:
  FLRC_DEVICE Ring(const StepParams& params, Shared<uint8_t> data, Shared<uint64_t> phases)
      : p_(params),
        data_(data),
        phases_(phases),
        index_(params.firstLines[blockX()]),
        end_(params.firstLines[blockX() + 1]) {
    if (laneIndex() < kRecords) phaseInit(phases_ + laneIndex(), 1);
    if (index_ < end_) next_ = params.lines[index_];
    --index_;
    nextLines();
    settle();
    refill();
  }

  // The record that was fetched first of those not yet read, of `strips` strips of a tile of `lines`: where the
  // lane's 16 bytes of its first strip lie.
  FLRC_DEVICE Shared<const uint8_t> next(int lines, int strips) {
    phaseWait(phases_ + static_cast<int>(read_ % kRecords), read_ / kRecords & 1);
    const int bytes = lines * lineStride(strips);
    if (out_ + bytes > p_.ringBytes) {
      held_ -= p_.ringBytes - out_;
      out_ = 0;
    }
    return data_ + (out_ + laneIndex() / 4 * lineStride(strips) + laneIndex() % 4 * 16);
  }
  // It has been read. While half of the ring is still on its way there is time for what comes next before more
  // is fetched.
  FLRC_DEVICE void release(int lines, int strips) {
    const int bytes = lines * lineStride(strips);
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
    const int lines = after < kTileLines ? after : kTileLines, bytes = lines * lineStride(strips);
    const bool wraps = in_ + bytes > p_.ringBytes;
    const int skipped = wraps ? p_.ringBytes - in_ : 0;
    if (fetched_ - read_ == kRecords || held_ + skipped + bytes > p_.ringBytes) return false;
    if (wraps) in_ = 0;
    const Shared<uint64_t> phase = phases_ + static_cast<int>(fetched_ % kRecords);
    const auto size = static_cast<uint32_t>(strips * kStripBytes);
    if (laneIndex() == 0) phaseExpect(phase, size * static_cast<uint32_t>(lines));
    syncWarp();
    if (laneIndex() < lines) {
      // What blocks send each other, and the lists of jobs, are to stay in the L2 cache.
      bulkCopyOnce(
          data_ + (in_ + laneIndex() * lineStride(strips)),
          now_.data + (static_cast<int64_t>(line + laneIndex()) * now_.lineBytes + strip_ * kStripBytes), size,
          phase);
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
    now_ = next_;
    // Read while those now at hand are fetched.
    if (index_ + 1 < end_) next_ = p_.lines[index_ + 1];
    walk_ = walkOf(now_.strips, now_.bits);
    piece_ = now_.begin;
    tile_ = walk_.first;
    strip_ = walk_.begin;
  }

  // To the next piece, and the next lines, where these have no tile for the warp.
  FLRC_DEVICE void settle() {
    while (index_ < end_) {
      const int left = now_.end - piece_, most = pieceLines(now_.bits);
      if (tile_ * kTileLines < (left < most ? left : most)) return;
      tile_ = walk_.first;
      piece_ += most;
      if (piece_ >= now_.end) nextLines();
    }
  }

  const StepParams& p_;
  Shared<uint8_t> data_;
  Shared<uint64_t> phases_;
  // What is fetched next.
  int index_, end_;
  StepLines now_{}, next_{};
  Walk walk_{};
  int piece_ = 0, tile_ = 0, strip_ = 0;
  // The ring: where the next record goes and where the first one lies, and bytes that are taken.
  int in_ = 0, out_ = 0, held_ = 0;
  unsigned fetched_ = 0, read_ = 0;
};

}  // namespace flrc::gpu::step
