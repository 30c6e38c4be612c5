// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_BF16_PANELS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_BF16_PANELS_INL
#undef FLRC_CPU_BF16_PANELS_INL
#else
#define FLRC_CPU_BF16_PANELS_INL
#endif

#include "cpu/bf16_panels.h"
#include "cpu/prompt-inl.h"

// f32 matrices on their way to a product in bf16.
HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX3

// The words of up to kLanes neighbours in rows 2 `pair` and 2 `pair` + 1 of x, which has `rows` rows.
HWY_INLINE WordVector pairOfRows(const float* x, int64_t ldx, int64_t rows, int64_t pair, int64_t count) {
  const float* first = x + 2 * pair * ldx;
  const bool both = 2 * pair + 1 < rows;
  return roundedPairs(loadPart(first, count), both ? loadPart(first + ldx, count) : hn::Zero(kFloats));
}

void setPanelOfRows(const float* w, int64_t ldw, int64_t index, Bf16Panels& to) {
  const int64_t first = index * kPanel;
  uint32_t* out = to.panel(index);
  for (int64_t pair = 0; pair < to.pairs(); ++pair, out += kPanel) {
    for (int v = 0; v < kPromptVectors; ++v) {
      const int64_t output = first + v * kLanes, left = to.outputs - output;
      const WordVector words = pairOfRows(w + (left > 0 ? output : 0), ldw, to.inputs, pair, left);
      hn::StoreU(words, hn::Repartition<uint32_t, FloatTag>(), out + v * kLanes);
    }
  }
}

void setPanelOfColumns(const float* w, int64_t ldw, int64_t index, Bf16Panels& to) {
  const int64_t first = index * kPanel, width = to.outputs - first < kPanel ? to.outputs - first : kPanel;
  uint32_t* out = to.panel(index);
  HWY_ALIGN uint32_t turned[kPanel][kLanes] = {};
  for (int64_t block = 0; block < to.pairs(); block += kLanes, out += kLanes * kPanel) {
    const int64_t left = to.inputs - 2 * block,
                  words = to.pairs() - block < kLanes ? to.pairs() - block : kLanes;
    for (int64_t o = 0; o < width; ++o) {
      const float* from = w + (first + o) * ldw + 2 * block;
      const WordVector halves = roundedHalves(loadPart(from, left), loadPart(from + kLanes, left - kLanes));
      hn::Store(halves, hn::Repartition<uint32_t, FloatTag>(), turned[o]);
    }
    for (int64_t word = 0; word < words; ++word) {
      for (int64_t o = 0; o < kPanel; ++o) out[word * kPanel + o] = turned[o][word];
    }
  }
}

void roundPromptOfRows(const float* x, int64_t ldx, int64_t inputs, int64_t tile, PromptInputs& to) {
  static_assert(kPromptPairs == kLanes && kPromptTile <= kLanes);
  const int64_t width = to.width(tile);
  const float* from = x + tile * kPromptTile;
  uint32_t* out = to.tile(tile);
  HWY_ALIGN uint32_t turned[kLanes][kLanes];
  for (int64_t block = 0; block < to.stride; block += kLanes, out += width * kLanes) {
    for (int64_t i = 0; i < kLanes; ++i) {
      const bool inside = block + i < to.pairs;
      const WordVector words = inside ? pairOfRows(from, ldx, inputs, block + i, width)
                                      : hn::Zero(hn::Repartition<uint32_t, FloatTag>());
      hn::Store(words, hn::Repartition<uint32_t, FloatTag>(), turned[i]);
    }
    for (int64_t c = 0; c < width; ++c) {
      for (int64_t i = 0; i < kLanes; ++i) out[c * kLanes + i] = turned[i][c];
    }
  }
}

void bf16PanelsTimes(const Bf16Panels& w, int64_t panelBegin, int64_t panelEnd, const PromptInputs& x,
                     bool adds, float* y, int64_t ldy) {
  const auto none = [](int64_t, int64_t, const auto&) HWY_ATTR {};
  for (int64_t panel = panelBegin; panel < panelEnd; ++panel) {
    const int64_t first = panel * kPanel, outputs = w.outputs - first < kPanel ? w.outputs - first : kPanel;
    promptPanel<Dtype::bf16>(reinterpret_cast<const uint8_t*>(w.panel(panel)), kPanel, outputs, x, adds,
                             y + first, ldy, none);
  }
}

#endif

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
