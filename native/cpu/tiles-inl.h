// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_TILES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_TILES_INL
#undef FLRC_CPU_TILES_INL
#else
#define FLRC_CPU_TILES_INL
#endif

#include "cpu/round-inl.h"
#include "cpu/weights-inl.h"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

// A lane is an output: outputs of a panel are computed side by side, kTileVectors vectors by up to kTileColumns
// columns at a time, as many sums as stay in registers. An output of a column goes through the same operations
// in any tile.
inline constexpr int kTileVectors = 2;
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
inline constexpr int kTileColumns = 4;
#else
inline constexpr int kTileColumns = 2;
#endif

// A panel from some output on. Scales and zeros are there where each output has its own.
struct PanelPart {
  const uint8_t* data;
  int64_t width;  // of the whole panel: what one word or group of an output is away from the next
  int64_t words;  // of an output
  const uint16_t* scale = nullptr;
  const uint8_t* zero = nullptr;
};

template <int kVectors, int kColumns>
struct TileSums {
  FloatVector sum[kVectors][kColumns];

  // Written out, as in all classes that hold vectors: an implicit constructor would be compiled for the static
  // target and may then not be inlined.
  HWY_INLINE TileSums() {}

  HWY_INLINE void clear() {
    FLRC_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      FLRC_UNROLL
      for (int c = 0; c < kColumns; ++c) sum[v][c] = hn::Zero(kFloats);
    }
  }

  HWY_INLINE void subtract(const float (&values)[kColumns]) {
    FLRC_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      FLRC_UNROLL
      for (int c = 0; c < kColumns; ++c) sum[v][c] = hn::Sub(sum[v][c], hn::Set(kFloats, values[c]));
    }
  }

  // What store() wrote, of outputs before `end`.
  HWY_INLINE void load(int64_t first, int64_t end, const float* y, int64_t ldy) {
    FLRC_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int64_t output = first + v * kLanes;
      FLRC_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const float* from = y + c * ldy + output;
        sum[v][c] = output + kLanes <= end ? hn::LoadU(kFloats, from) : loadFirst(from, end - output);
      }
    }
  }

  // To y[c * ldy + output], for the outputs of the tile, which begins with `first`, that lie in [begin, end).
  HWY_INLINE void store(int64_t first, int64_t begin, int64_t end, float* y, int64_t ldy) const {
    FLRC_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int64_t output = first + v * kLanes;
      const bool whole = output >= begin && output + kLanes <= end;
      FLRC_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        if (whole) {
          hn::StoreU(sum[v][c], kFloats, y + c * ldy + output);
          continue;
        }
        float values[kLanes];
        hn::StoreU(sum[v][c], kFloats, values);
        for (int i = 0; i < kLanes; ++i) {
          if (output + i >= begin && output + i < end) y[c * ldy + output + i] = values[i];
        }
      }
    }
  }
};

// Memory answers soonest when it is asked this many bytes ahead: the processor's own prefetching ends with a
// page.
inline constexpr int64_t kAhead = 4096;

HWY_INLINE void prefetchTile(const uint8_t* at) {
  FLRC_UNROLL
  for (int i = 0; i < kTileVectors * kLanes * 4; i += 64) hwy::Prefetch(at + kAhead + i);
}

// Sums over `count` inputs x [columns][ldx]: over the even and the odd ones apart.
template <Dtype kType, int kVectors, int kColumns>
HWY_INLINE void floatTile(const PanelPart& part, const float* x, int64_t ldx, int64_t count,
                          TileSums<kVectors, kColumns>& out) {
  const int64_t step = part.width * 4;
  FloatVector even[kVectors][kColumns], odd[kVectors][kColumns];
  FLRC_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    FLRC_UNROLL
    for (int c = 0; c < kColumns; ++c) even[v][c] = odd[v][c] = hn::Zero(kFloats);
  }
  const auto add = [&](FloatVector(&sum)[kVectors][kColumns], const FloatVector* w, int64_t i) HWY_ATTR {
    FLRC_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      const FloatVector input = hn::Set(kFloats, x[c * ldx + i]);
      FLRC_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[v][c] = hn::MulAdd(w[v], input, sum[v][c]);
    }
  };
  const uint8_t* at = part.data;
  FloatVector w[kVectors];
  int64_t i = 0;
  if constexpr (kType == Dtype::f32) {
    const auto load = [&]() HWY_ATTR {
      prefetchTile(at);
      FLRC_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        w[v] = hn::LoadU(kFloats, reinterpret_cast<const float*>(at) + v * kLanes);
      }
      at += step;
    };
    for (; i + 2 <= count; i += 2) {
      load();
      add(even, w, i);
      load();
      add(odd, w, i + 1);
    }
    if (i < count) {
      load();
      add(even, w, i);
    }
  } else {
    const hn::Repartition<uint32_t, FloatTag> words;
    const auto high = hn::Set(words, 0xffff0000u);
    for (; i < count; i += 2, at += step) {
      prefetchTile(at);
      hn::Vec<decltype(words)> pairs[kVectors];
      FLRC_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        pairs[v] = hn::LoadU(words, reinterpret_cast<const uint32_t*>(at) + v * kLanes);
        w[v] = hn::BitCast(kFloats, hn::ShiftLeft<16>(pairs[v]));
      }
      add(even, w, i);
      if (i + 1 == count) break;
      FLRC_UNROLL
      for (int v = 0; v < kVectors; ++v) w[v] = hn::BitCast(kFloats, hn::And(pairs[v], high));
      add(odd, w, i + 1);
    }
  }
  FLRC_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    FLRC_UNROLL
    for (int c = 0; c < kColumns; ++c) out.sum[v][c] = hn::Add(even[v][c], odd[v][c]);
  }
}

template <Dtype kType>
HWY_INLINE void unpackWords(const uint8_t* at, ShortVector* parts) {
  const hn::Repartition<uint16_t, FloatTag> halves;
  const auto packed = hn::LoadU(halves, reinterpret_cast<const uint16_t*>(at));
  if constexpr (kType == Dtype::int8) {
    const auto bytes = hn::BitCast(kShorts, packed);
    parts[0] = hn::ShiftRight<8>(hn::ShiftLeft<8>(bytes));
    parts[1] = hn::ShiftRight<8>(bytes);
  } else {
    const auto nibble = hn::Set(halves, uint16_t{15});
    parts[0] = hn::BitCast(kShorts, hn::And(packed, nibble));
    parts[1] = hn::BitCast(kShorts, hn::And(hn::ShiftRight<4>(packed), nibble));
    parts[2] = hn::BitCast(kShorts, hn::And(hn::ShiftRight<8>(packed), nibble));
    parts[3] = hn::BitCast(kShorts, hn::ShiftRight<12>(packed));
  }
}

// Columns of inputs rounded to 16 bits, group by group: [columns][stride].
struct IntegerInputs {
  const RoundedGroup* rounded;
  const float* scale;
  const float* sum;  // of a group's values, where outputs have zeros
  int64_t stride;
};

// Adds to `out` group by group; the products of a group are summed as integers, exactly: at most 32 * 2^7 *
// 2^15.
template <Dtype kType, bool kOwnScales, int kVectors, int kColumns>
HWY_INLINE void integerTile(const PanelPart& part, const IntegerInputs& inputs,
                            TileSums<kVectors, kColumns>& out) {
  constexpr int kParts = kWordParts<kType>;
  constexpr int64_t kSteps = kGroup / (2 * kParts);
  const int64_t step = part.width * 4;
  FloatVector sum[kVectors][kColumns];
  FLRC_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    FLRC_UNROLL
    for (int c = 0; c < kColumns; ++c) sum[v][c] = out.sum[v][c];
  }
  const uint8_t* at = part.data;
  for (int64_t g = 0, words = part.words; words > 0; ++g, words -= kSteps) {
    hn::Vec<WordTag> low[kVectors][kColumns], high[kVectors][kColumns];
    FLRC_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      FLRC_UNROLL
      for (int c = 0; c < kColumns; ++c) low[v][c] = high[v][c] = hn::Zero(kWords);
    }
    const int64_t steps = words < kSteps ? words : kSteps;
    for (int64_t s = 0; s < steps; ++s, at += step) {
      prefetchTile(at);
      ShortVector w[kVectors][kParts];
      FLRC_UNROLL
      for (int v = 0; v < kVectors; ++v) unpackWords<kType>(at + v * kLanes * 4, w[v]);
      FLRC_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const auto* x =
            reinterpret_cast<const int32_t*>(inputs.rounded[c * inputs.stride + g].values) + s * kParts;
        FLRC_UNROLL
        for (int p = 0; p < kParts; ++p) {
          const ShortVector input = hn::BitCast(kShorts, hn::Set(kWords, x[p]));
          FLRC_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            low[v][c] = hn::ReorderWidenMulAccumulate(kWords, w[v][p], input, low[v][c], high[v][c]);
          }
        }
      }
    }
    FLRC_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      FloatVector scale = hn::Zero(kFloats), zero = scale;
      if constexpr (kOwnScales) scale = expandBf16(part.scale + g * part.width + v * kLanes);
      if constexpr (kOwnScales && kType == Dtype::int4) {
        const hn::Rebind<uint8_t, FloatTag> bytes;
        const auto zeros = hn::LoadU(bytes, part.zero + g * part.width + v * kLanes);
        zero = hn::ConvertTo(kFloats, hn::PromoteTo(kWords, zeros));
      }
      FLRC_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const int64_t input = c * inputs.stride + g;
        FloatVector product = hn::ConvertTo(kFloats, hn::RearrangeToOddPlusEven(low[v][c], high[v][c]));
        FloatVector factor = hn::Set(kFloats, inputs.scale[input]);
        if constexpr (kOwnScales) {
          // Exact too: below 2^24.
          if constexpr (kType == Dtype::int4) {
            product = hn::NegMulAdd(zero, hn::Set(kFloats, inputs.sum[input]), product);
          }
          factor = hn::Mul(scale, factor);
        }
        sum[v][c] = hn::MulAdd(product, factor, sum[v][c]);
      }
    }
  }
  FLRC_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    FLRC_UNROLL
    for (int c = 0; c < kColumns; ++c) out.sum[v][c] = sum[v][c];
  }
}

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
