// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_DEQUANTISE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_DEQUANTISE_INL
#undef FLRC_CPU_DEQUANTISE_INL
#else
#define FLRC_CPU_DEQUANTISE_INL
#endif

#include "cpu/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

using WordVector = hn::Vec<hn::Repartition<uint32_t, FloatTag>>;

// Weights in a word of 4 bytes.
template <Dtype kType>
inline constexpr int64_t kWordValues = kType == Dtype::f32    ? 1
                                       : kType == Dtype::bf16 ? 2
                                       : kType == Dtype::int8 ? 4
                                                              : 8;

// The i-th weight of every word as f32, without scale and zero.
template <Dtype kType, int i>
HWY_INLINE FloatVector weightOf(WordVector words) {
  const hn::Repartition<int32_t, FloatTag> integers;
  if constexpr (kType == Dtype::f32) {
    return hn::BitCast(kFloats, words);
  } else if constexpr (kType == Dtype::bf16) {
    if constexpr (i == 0) return hn::BitCast(kFloats, hn::ShiftLeft<16>(words));
    return hn::BitCast(kFloats, hn::ShiftLeft<16>(hn::ShiftRight<16>(words)));
  } else if constexpr (kType == Dtype::int8) {
    const auto top = hn::BitCast(integers, hn::ShiftLeft<24 - 8 * i>(words));
    return hn::ConvertTo(kFloats, hn::ShiftRight<24>(top));
  } else {
    const auto nibble = hn::ShiftRight<28>(hn::ShiftLeft<28 - 4 * i>(words));
    return hn::ConvertTo(kFloats, hn::BitCast(integers, nibble));
  }
}

// value = (weight - zero) * scale, exact in f32.
template <Dtype kType>
HWY_INLINE FloatVector scaled(FloatVector weight, FloatVector scale, FloatVector zero) {
  if constexpr (kType == Dtype::int8) return hn::Mul(weight, scale);
  if constexpr (kType == Dtype::int4) return hn::Mul(hn::Sub(weight, zero), scale);
  return weight;
}

template <Dtype kType>
inline constexpr bool kScaled = kType == Dtype::int8 || kType == Dtype::int4;

HWY_INLINE void storeUpTo(FloatVector vector, int64_t count, float* out) {
  if (count >= kLanes) {
    hn::StoreU(vector, kFloats, out);
  } else {
    storeFirst(vector, count, out);
  }
}

HWY_INLINE WordVector loadWords(const uint8_t* data, int64_t word) {
  return hn::LoadU(hn::Repartition<uint32_t, FloatTag>(), reinterpret_cast<const uint32_t*>(data) + word);
}

HWY_INLINE FloatVector loadBytes(const uint8_t* at) {
  const hn::Repartition<int32_t, FloatTag> integers;
  const hn::Rebind<uint8_t, FloatTag> bytes;
  return hn::ConvertTo(kFloats, hn::PromoteTo(integers, hn::LoadU(bytes, at)));
}

// Weights i and following of a word of `count` rows, to out[i * ld].
template <Dtype kType, int i>
HWY_INLINE void storeWord(WordVector words, FloatVector scale, FloatVector zero, int64_t values, int64_t count,
                          float* out, int64_t ld) {
  if constexpr (i < kWordValues<kType>) {
    if (i >= values) return;
    storeUpTo(scaled<kType>(weightOf<kType, i>(words), scale, zero), count, out + i * ld);
    storeWord<kType, i + 1>(words, scale, zero, values, count, out, ld);
  }
}

template <Dtype kType>
void widenRowsOf(const RowMatrix& w, int64_t rowBegin, int64_t rowEnd, float* out, int64_t ld) {
  constexpr int64_t kGroupWords = kGroup / kWordValues<kType>;
  const int64_t words = w.rowWords(), groups = w.stride / kGroup;
  for (int64_t first = rowBegin; first < rowEnd; first += kPanel) {
    const int64_t width = w.rows - first < kPanel ? w.rows - first : kPanel;
    const int64_t rows = rowEnd - first < width ? rowEnd - first : width;
    const auto* scales = reinterpret_cast<const uint16_t*>(w.scale.data()) + first * groups;
    for (int64_t word = 0; word * kWordValues<kType> < w.cols; ++word) {
      const int64_t column = word * kWordValues<kType>, group = first * groups + word / kGroupWords * width;
      for (int64_t lane = 0; lane < rows; lane += kLanes) {
        FloatVector scale = hn::Zero(kFloats), zero = scale;
        if constexpr (kScaled<kType>) scale = expandBf16(scales + word / kGroupWords * width + lane);
        if constexpr (kType == Dtype::int4) zero = loadBytes(w.zero.data() + group + lane);
        storeWord<kType, 0>(loadWords(w.data.data(), first * words + word * width + lane), scale, zero,
                            w.cols - column, rows - lane, out + column * ld + first - rowBegin + lane, ld);
      }
    }
  }
}

void widenRows(const RowMatrix& w, int64_t rowBegin, int64_t rowEnd, float* out, int64_t ld) {
  switch (w.dtype) {
    case Dtype::f32:
      return widenRowsOf<Dtype::f32>(w, rowBegin, rowEnd, out, ld);
    case Dtype::bf16:
      return widenRowsOf<Dtype::bf16>(w, rowBegin, rowEnd, out, ld);
    case Dtype::int8:
      return widenRowsOf<Dtype::int8>(w, rowBegin, rowEnd, out, ld);
    case Dtype::int4:
      return widenRowsOf<Dtype::int4>(w, rowBegin, rowEnd, out, ld);
  }
}

// Weights i and following of a word of `count` outputs, each with its rank's scale and zero, to out[i * ld].
template <Dtype kType, int i>
HWY_INLINE void storeRanks(WordVector words, const uint16_t* scale, const uint8_t* zero, int64_t values,
                           int64_t count, float* out, int64_t ld) {
  if constexpr (i < kWordValues<kType>) {
    if (i >= values) return;
    FloatVector s = hn::Zero(kFloats), z = s;
    if constexpr (kScaled<kType>) s = hn::Set(kFloats, bf16ToFloat(scale[i]));
    if constexpr (kType == Dtype::int4) z = hn::Set(kFloats, static_cast<float>(zero[i]));
    storeUpTo(scaled<kType>(weightOf<kType, i>(words), s, z), count, out + i * ld);
    storeRanks<kType, i + 1>(words, scale, zero, values, count, out, ld);
  }
}

template <Dtype kType>
void widenPanelsOf(const PanelMatrix& w, int64_t panelBegin, int64_t panelEnd, int64_t rank, float* out,
                   int64_t ld) {
  const int64_t words = w.outputWords();
  for (int64_t panel = panelBegin; panel < panelEnd; ++panel) {
    const int64_t first = panel * kPanel, width = w.outputs - first < kPanel ? w.outputs - first : kPanel;
    const auto* scales = reinterpret_cast<const uint16_t*>(w.scale.data()) + panel * w.rank;
    for (int64_t j = 0; j < rank; j += kWordValues<kType>) {
      for (int64_t lane = 0; lane < width; lane += kLanes) {
        storeRanks<kType, 0>(loadWords(w.data.data(), first * words + j / kWordValues<kType> * width + lane),
                             scales + j, w.zero.data() + panel * w.rank + j, rank - j, width - lane,
                             out + j * ld + (panel - panelBegin) * kPanel + lane, ld);
      }
    }
  }
}

void widenPanels(const PanelMatrix& w, int64_t panelBegin, int64_t panelEnd, int64_t rank, float* out,
                 int64_t ld) {
  switch (w.dtype) {
    case Dtype::f32:
      return widenPanelsOf<Dtype::f32>(w, panelBegin, panelEnd, rank, out, ld);
    case Dtype::bf16:
      return widenPanelsOf<Dtype::bf16>(w, panelBegin, panelEnd, rank, out, ld);
    case Dtype::int8:
      return widenPanelsOf<Dtype::int8>(w, panelBegin, panelEnd, rank, out, ld);
    case Dtype::int4:
      return widenPanelsOf<Dtype::int4>(w, panelBegin, panelEnd, rank, out, ld);
  }
}

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
