// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_TILES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_TILES_INL
#undef FLRC_CPU_TILES_INL
#else
#define FLRC_CPU_TILES_INL
#endif

#include <type_traits>

#include "cpu/integers-inl.h"
#include "cpu/weights-inl.h"

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

// A tile of fewer columns than could be is the last that reads its weights: they pass the caches by, and the
// inputs stay there.
template <int kColumns>
HWY_INLINE void prefetchTile(const uint8_t* at) {
  constexpr int kLocality = kColumns < kTileColumns ? 0 : 3;
  FLRC_UNROLL
  for (int i = 0; i < kTileVectors * kLanes * 4; i += 64) __builtin_prefetch(at + kAhead + i, 0, kLocality);
}

// Calls tile(columns of a tile, as a constant, and the first of them) for all columns.
template <typename Tile>
HWY_INLINE void eachTile(int columns, const Tile& tile) {
  int column = 0;
  for (; column + kTileColumns <= columns; column += kTileColumns) {
    tile(std::integral_constant<int, kTileColumns>(), column);
  }
  switch (columns - column) {
    case 3:
      if constexpr (kTileColumns > 3) tile(std::integral_constant<int, 3>(), column);
      break;
    case 2:
      if constexpr (kTileColumns > 2) tile(std::integral_constant<int, 2>(), column);
      break;
    case 1:
      tile(std::integral_constant<int, 1>(), column);
  }
}

// Calls tile(the width of a panel): as a constant for all panels but a matrix's last, so that it costs no
// registers.
template <typename Tile>
HWY_INLINE void withWidth(int64_t width, const Tile& tile) {
  if (width == kPanel) {
    tile(std::integral_constant<int64_t, kPanel>());
  } else {
    tile(width);
  }
}

// Sums over `count` inputs x [columns][ldx]: over the even and the odd ones apart.
template <Dtype kType, int kVectors, int kColumns, typename Width>
HWY_INLINE void floatTile(const PanelPart& part, Width width, const float* x, int64_t ldx, int64_t count,
                          TileSums<kVectors, kColumns>& out) {
  const int64_t step = width * 4;
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
      prefetchTile<kColumns>(at);
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
      prefetchTile<kColumns>(at);
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

// Columns of inputs rounded to 16 bits, group by group: [columns][stride].
struct IntegerInputs {
  const RoundedGroup* rounded;
  const float* scale;
  const float* sum;  // of a group's values, where outputs have zeros
  int64_t stride;
};

// Adds to `out` group by group; a group's products are summed as integers.
template <class Way, Dtype kType, bool kOwnScales, int kVectors, int kColumns, typename Width>
HWY_INLINE void integerTile(const PanelPart& part, Width width, const IntegerInputs& inputs,
                            TileSums<kVectors, kColumns>& out) {
  const int64_t step = width * 4;
  FloatVector sum[kVectors][kColumns];
  FLRC_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    FLRC_UNROLL
    for (int c = 0; c < kColumns; ++c) sum[v][c] = out.sum[v][c];
  }
  const uint8_t* at = part.data;
  const int64_t whole = part.words / kGroupWords<kType>, rest = part.words % kGroupWords<kType>;
  const auto group = [&](int64_t g, auto isWhole) HWY_ATTR {
    typename Way::template Sums<kType, kVectors, kColumns> sums;
    const auto add = [&](int64_t s) HWY_ATTR {
      prefetchTile<kColumns>(at);
      sums.add(at, inputs.rounded + g, inputs.stride, s);
      at += step;
    };
    if constexpr (isWhole) {
      FLRC_UNROLL
      for (int64_t s = 0; s < kGroupWords<kType>; ++s) add(s);
    } else {
      for (int64_t s = 0; s < rest; ++s) add(s);
    }
    FLRC_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      FloatVector scale = hn::Zero(kFloats), zero = scale;
      if constexpr (kOwnScales) scale = expandBf16(part.scale + g * width + v * kLanes);
      if constexpr (kOwnScales && kType == Dtype::int4) {
        const hn::Rebind<uint8_t, FloatTag> bytes;
        const auto zeros = hn::LoadU(bytes, part.zero + g * width + v * kLanes);
        zero = hn::ConvertTo(kFloats, hn::PromoteTo(kWords, zeros));
      }
      FLRC_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const int64_t input = c * inputs.stride + g;
        FloatVector product = hn::ConvertTo(kFloats, sums.total(v, c));
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
  };
  for (int64_t g = 0; g < whole; ++g) group(g, std::true_type());
  if (rest > 0) group(whole, std::false_type());
  FLRC_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    FLRC_UNROLL
    for (int c = 0; c < kColumns; ++c) out.sum[v][c] = sum[v][c];
  }
}

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
