// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_PROMPT_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_PROMPT_INL
#undef FLRC_CPU_PROMPT_INL
#else
#define FLRC_CPU_PROMPT_INL
#endif

#include <array>
#include <utility>

#include "cpu/dequantise-inl.h"
#include "cpu/prompt_inputs.h"

// Products of many columns by AVX512-BF16, which multiplies two pairs of bf16 values and adds both products to
// an f32 sum. A word of bf16 weights is such a pair, so they are read where they lie; int8 and int4 weights are
// rounded to bf16, a part of a panel at a time.
HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX3

// Words of a panel that are multiplied with all columns before the next ones: 32 KB, which stay in L1.
inline constexpr int64_t kPromptBlock = 256;
static_assert(kPromptBlock % kPromptPairs == 0);
inline constexpr int kPromptVectors = static_cast<int>(kPanel) / kLanes;

// Words of all outputs of a panel, `step` bytes apart.
struct PanelWords {
  const uint8_t* at;
  int64_t step, words;
};

// Where the sums of a tile go: y[c * ldy + o], o < outputs.
struct PromptSums {
  float* y;
  int64_t ldy, outputs;
  bool begins;  // or adds to what is there
};

// The intrinsics would have to be inlined into functions of Highway's target, which lacks BF16.
HWY_INLINE void addPairs(WordVector weights, WordVector inputs, FloatVector& sum) {
  auto raw = sum.raw;
  asm("vdpbf16ps %2, %1, %0" : "+v"(raw) : "v"(weights.raw), "v"(inputs.raw));
  sum = FloatVector{raw};
}

template <int kColumns>
void promptTile(const PanelWords& panel, const uint32_t* x, const PromptSums& out) {
  const hn::Repartition<uint32_t, FloatTag> words;
  hn::Mask<FloatTag> inUse[kPromptVectors];
  FloatVector sum[kPromptVectors][kColumns];
  FLRC_UNROLL
  for (int v = 0; v < kPromptVectors; ++v) {
    const int64_t left = out.outputs - v * kLanes;
    inUse[v] = hn::FirstN(kFloats, static_cast<size_t>(left < 0 ? 0 : left));
    FLRC_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      const float* from = out.y + c * out.ldy + v * kLanes;
      sum[v][c] = out.begins ? hn::Zero(kFloats) : hn::MaskedLoad(inUse[v], kFloats, from);
    }
  }
  const uint8_t* at = panel.at;
  for (int64_t first = 0; first < panel.words; first += kPromptPairs, x += kColumns * kPromptPairs) {
    const int64_t left = panel.words - first, end = left < kPromptPairs ? left : kPromptPairs;
    for (int64_t i = 0; i < end; ++i, at += panel.step) {
      WordVector weights[kPromptVectors];
      FLRC_UNROLL
      for (int v = 0; v < kPromptVectors; ++v) weights[v] = loadWords(at, v * kLanes);
      FLRC_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const auto input = hn::Set(words, x[c * kPromptPairs + i]);
        FLRC_UNROLL
        for (int v = 0; v < kPromptVectors; ++v) addPairs(weights[v], input, sum[v][c]);
      }
    }
  }
  FLRC_UNROLL
  for (int v = 0; v < kPromptVectors; ++v) {
    FLRC_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      hn::BlendedStore(sum[v][c], inUse[v], kFloats, out.y + c * out.ldy + v * kLanes);
    }
  }
}

template <size_t... kIndices>
constexpr auto promptTiles(std::index_sequence<kIndices...>) {
  return std::array{promptTile<static_cast<int>(kIndices) + 1>...};
}
// By columns, less one.
inline constexpr auto kPromptTiles = promptTiles(std::make_index_sequence<kPromptTile>());

// 32 values as bf16, in order.
HWY_INLINE WordVector roundedHalves(FloatVector low, FloatVector high) {
  auto raw = low.raw;
  asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(raw) : "v"(low.raw), "v"(high.raw));
  return hn::BitCast(hn::Repartition<uint32_t, FloatTag>(), FloatVector{raw});
}

// Pairs of f32 as bf16, to the nearest and even; the first of a pair in the low half.
HWY_INLINE WordVector roundedPairs(FloatVector first, FloatVector second) {
  // Its halves are the first ones and, behind them, the second ones.
  const WordVector rounded = roundedHalves(first, second);
  const hn::Repartition<uint16_t, FloatTag> halves;
  const hn::Half<decltype(halves)> ofOne;
  const hn::Repartition<uint32_t, FloatTag> words;
  const auto all = hn::BitCast(halves, rounded);
  const auto low = hn::PromoteTo(words, hn::LowerHalf(ofOne, all));
  const auto high = hn::PromoteTo(words, hn::UpperHalf(ofOne, all));
  return hn::Or(low, hn::ShiftLeft<16>(high));
}

// Weights i and following of a vector of words, as pairs, to out[pair * kPanel]. scale(i) and zero(i) are those
// of weight i.
template <Dtype kType, int i, typename Scale, typename Zero>
HWY_INLINE void storePairs(WordVector from, const Scale& scale, const Zero& zero, uint32_t* out) {
  if constexpr (i < kWordValues<kType>) {
    const auto value = [&](auto at)
                           HWY_ATTR { return scaled<kType>(weightOf<kType, at>(from), scale(at), zero(at)); };
    const auto pair =
        roundedPairs(value(std::integral_constant<int, i>()), value(std::integral_constant<int, i + 1>()));
    hn::StoreU(pair, hn::Repartition<uint32_t, FloatTag>(), out);
    storePairs<kType, i + 2>(from, scale, zero, out + kPanel);
  }
}

// Words of bf16 in one of the type.
template <Dtype kType>
inline constexpr int64_t kWordPairs = kWordValues<kType> / 2;

// y, or what is added to y, of the first outputs of a panel, whose `width` outputs are stored from `data` on.
// scales(word, lane) gives the pair of functions that storePairs wants of a stored word.
template <Dtype kType, typename Scales>
HWY_INLINE void promptPanel(const uint8_t* data, int64_t width, int64_t outputs, const PromptInputs& x,
                            bool adds, float* y, int64_t ldy, const Scales& scales) {
  const int64_t step = width * 4;
  HWY_ALIGN uint32_t rounded[kType == Dtype::bf16 ? 1 : kPromptBlock * kPanel];
  for (int64_t first = 0; first < x.pairs; first += kPromptBlock) {
    const int64_t words = x.pairs - first < kPromptBlock ? x.pairs - first : kPromptBlock;
    PanelWords panel{data + first * step, step, words};
    if constexpr (kType != Dtype::bf16) {
      for (int64_t pair = 0; pair < words; pair += kWordPairs<kType>) {
        const int64_t word = (first + pair) / kWordPairs<kType>;
        for (int v = 0; v < kPromptVectors; ++v) {
          scales(word, v * kLanes, [&](const auto& scale, const auto& zero) HWY_ATTR {
            storePairs<kType, 0>(loadWords(data + word * step, v * kLanes), scale, zero,
                                 rounded + pair * kPanel + v * kLanes);
          });
        }
      }
      panel = {reinterpret_cast<const uint8_t*>(rounded), kPanel * 4, words};
    }
    for (int64_t tile = 0; tile < x.tiles(); ++tile) {
      const int64_t columns = x.width(tile);
      const PromptSums sums{y + tile * kPromptTile * ldy, ldy, outputs, !adds && first == 0};
      kPromptTiles[static_cast<size_t>(columns - 1)](panel, x.tile(tile) + columns * first, sums);
    }
  }
}

template <Dtype kType>
void rowsTimesPromptOf(const RowMatrix& w, int64_t rowBegin, int64_t rowEnd, const PromptInputs& x, float* y,
                       int64_t ldy) {
  constexpr int64_t kGroupWords = kGroup / kWordValues<kType>;
  const int64_t words = w.rowWords(), groups = w.stride / kGroup;
  for (int64_t first = rowBegin; first < rowEnd; first += kPanel) {
    const int64_t width = w.rows - first < kPanel ? w.rows - first : kPanel;
    const int64_t outputs = rowEnd - first < width ? rowEnd - first : width;
    const auto scales = [&](int64_t word, int64_t lane, const auto& store) HWY_ATTR {
      const int64_t group = first * groups + word / kGroupWords * width + lane;
      const FloatVector scale = expandBf16(reinterpret_cast<const uint16_t*>(w.scale.data()) + group);
      FloatVector zero = hn::Zero(kFloats);
      if constexpr (kType == Dtype::int4) zero = loadBytes(w.zero.data() + group);
      store([&](auto) HWY_ATTR { return scale; }, [&](auto) HWY_ATTR { return zero; });
    };
    promptPanel<kType>(w.data.data() + first * words * 4, width, outputs, x, false, y + first, ldy, scales);
  }
}

void rowsTimesPrompt(const RowMatrix& w, int64_t rowBegin, int64_t rowEnd, const PromptInputs& x, float* y,
                     int64_t ldy) {
  if (w.dtype == Dtype::bf16) rowsTimesPromptOf<Dtype::bf16>(w, rowBegin, rowEnd, x, y, ldy);
  if (w.dtype == Dtype::int8) rowsTimesPromptOf<Dtype::int8>(w, rowBegin, rowEnd, x, y, ldy);
  if (w.dtype == Dtype::int4) rowsTimesPromptOf<Dtype::int4>(w, rowBegin, rowEnd, x, y, ldy);
}

template <Dtype kType>
void panelsTimesPromptOf(const PanelMatrix& w, int64_t panelBegin, int64_t panelEnd, const PromptInputs& t,
                         float* y, int64_t ldy) {
  const int64_t words = w.outputWords();
  for (int64_t panel = panelBegin; panel < panelEnd; ++panel) {
    const int64_t first = panel * kPanel, width = w.outputs - first < kPanel ? w.outputs - first : kPanel;
    // What is read behind the last rank meets inputs that are 0.
    const auto scales = [&](int64_t word, int64_t, const auto& store) HWY_ATTR {
      const int64_t rank = panel * w.rank + word * kWordValues<kType>;
      const auto* scale = reinterpret_cast<const uint16_t*>(w.scale.data()) + rank;
      const uint8_t* zero = w.zero.data() + rank;
      store([&](auto i) HWY_ATTR { return hn::Set(kFloats, bf16ToFloat(scale[i])); },
            [&](auto i) HWY_ATTR {
              return kType == Dtype::int4 ? hn::Set(kFloats, static_cast<float>(zero[i])) : hn::Zero(kFloats);
            });
    };
    promptPanel<kType>(w.data.data() + first * words * 4, width, width, t, false, y + first, ldy, scales);
  }
}

void panelsTimesPrompt(const PanelMatrix& w, int64_t panelBegin, int64_t panelEnd, const PromptInputs& t,
                       float* y, int64_t ldy) {
  if (w.dtype == Dtype::bf16) panelsTimesPromptOf<Dtype::bf16>(w, panelBegin, panelEnd, t, y, ldy);
  if (w.dtype == Dtype::int8) panelsTimesPromptOf<Dtype::int8>(w, panelBegin, panelEnd, t, y, ldy);
  if (w.dtype == Dtype::int4) panelsTimesPromptOf<Dtype::int4>(w, panelBegin, panelEnd, t, y, ldy);
}

// Up to a vector of values, with zeros behind the last.
HWY_INLINE FloatVector loadPart(const float* x, int64_t count) {
  if (count >= kLanes) return hn::LoadU(kFloats, x);
  return hn::MaskedLoad(hn::FirstN(kFloats, static_cast<size_t>(count < 0 ? 0 : count)), kFloats, x);
}

void roundPrompt(const float* x, int64_t inputs, int64_t stride, uint32_t* words) {
  constexpr int64_t kValues = 2 * kPromptPairs;
  static_assert(kPromptPairs == kLanes);
  for (int64_t first = 0; first < inputs; first += kValues, words += stride) {
    const float* from = x + first;
    const int64_t left = inputs - first;
    const WordVector halves = roundedHalves(loadPart(from, left), loadPart(from + kLanes, left - kLanes));
    hn::StoreU(halves, hn::Repartition<uint32_t, FloatTag>(), words);
  }
}

#endif

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
