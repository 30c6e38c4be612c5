// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_PANELS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_PANELS_INL
#undef FLRC_CPU_PANELS_INL
#else
#define FLRC_CPU_PANELS_INL
#endif

#include "cpu/round-inl.h"
#include "cpu/tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

struct PanelsCall {
  const PanelMatrix& w;
  int64_t rank;
  const float* t;  // [columns][ldt]
  int64_t ldt;
  float* y;  // [columns][ldy]
  int64_t ldy;
};

// A rank's scale belongs to all outputs of a panel, so for int8 and int4 it goes to the inputs, which are
// rounded for every panel: to 1/65278 of the product of the largest input and the largest scale in a group of
// ranks. That bound saves looking for the largest of their products panel by panel.
inline constexpr int64_t kRankGroups = 16, kRanks = kRankGroups * kGroup;
// Ranks whose inputs are divided at once.
inline constexpr int64_t kManyRanks = 8 * kRanks;
// Panels that share a preparation of inputs, few enough that their weights stay in the cache for further
// columns.
inline constexpr int64_t kPanelBlock = 16;

// `ranks` of the inputs from some rank on, padded with zeros to whole groups, divided so that a group's largest
// is kRoundedMost, and what a group was divided by.
template <int kColumns>
struct RankInputs {
  HWY_ALIGN float divided[kColumns][kManyRanks];
  float unit[kColumns][kManyRanks / kGroup];

  HWY_INLINE void set(const PanelsCall& call, int column, int64_t first, int64_t ranks) {
    for (int c = 0; c < kColumns; ++c) {
      const float* from = call.t + (column + c) * call.ldt + first;
      for (int64_t j = 0; j < ranks; j += kAtOnce * kGroup) {
        float padded[kAtOnce * kGroup];
        const float* some = paddedGroups(from + j, ranks - j, padded);
        const RoundingUnits units(some);
        for (int64_t g = 0; g < kAtOnce; ++g) {
          unit[c][j / kGroup + g] = units.unit[g];
          const FloatVector factor = hn::Set(kFloats, units.factor[g]);
          FLRC_UNROLL
          for (int64_t i = 0; i < kGroup; i += kLanes) {
            const FloatVector value = hn::Mul(hn::LoadU(kFloats, some + g * kGroup + i), factor);
            hn::Store(value, kFloats, divided[c] + j + g * kGroup + i);
          }
        }
      }
    }
  }
};

// What up to kRanks of a panel are multiplied with: inputs times scales, rounded, and how much zeros make of
// them.
template <int kColumns>
struct PanelInputs {
  RoundedGroup rounded[kColumns][kRankGroups];
  float unit[kColumns][kRankGroups], offset[kColumns];

  template <class Way, Dtype kType>
  HWY_INLINE void set(const PanelMatrix& w, int64_t panel, int64_t first, int64_t ranks,
                      const RankInputs<kColumns>& inputs, int64_t inputGroup) {
    const int64_t at = panel * w.rank + first;
    const auto* scales = reinterpret_cast<const uint16_t*>(w.scale.data()) + at;
    // Behind the last rank lie those of other panels.
    const int64_t whole = ranks / kGroup, groups = (ranks + kGroup - 1) / kGroup;
    uint16_t last[kGroup] = {};
    for (int64_t i = whole * kGroup; i < ranks; ++i) last[i - whole * kGroup] = scales[i];
    const auto scaleOf = [&](int64_t g, int v) HWY_ATTR {
      return expandBf16((g < whole ? scales + g * kGroup : last) + v * kLanes);
    };
    FloatVector offsets[kColumns];
    FLRC_UNROLL
    for (int c = 0; c < kColumns; ++c) offsets[c] = hn::Zero(kFloats);
    for (int64_t first4 = 0; first4 < groups; first4 += kAtOnce) {
      const int64_t some = groups - first4 < kAtOnce ? groups - first4 : kAtOnce;
      FloatVector most[kAtOnce];
      FLRC_UNROLL
      for (int g = 0; g < kAtOnce; ++g) {
        most[g] = hn::Zero(kFloats);
        if (g >= some) continue;
        FLRC_UNROLL
        for (int v = 0; v < kGroupVectors; ++v) most[g] = hn::Max(most[g], hn::Abs(scaleOf(first4 + g, v)));
      }
      const auto larger = [](FloatVector x, FloatVector y) HWY_ATTR { return hn::Max(x, y); };
      const FloatVector largest = overLanes(most, larger);
      float sizes[kLanes], inverses[kLanes];
      hn::StoreU(largest, kFloats, sizes);
      hn::StoreU(inverseOf(largest, 1), kFloats, inverses);
      for (int64_t g = first4; g < first4 + some; ++g) {
        const FloatVector inverse = hn::Set(kFloats, inverses[g - first4]);
        FloatVector scale[kGroupVectors];
        FLRC_UNROLL
        for (int v = 0; v < kGroupVectors; ++v) scale[v] = hn::Mul(scaleOf(g, v), inverse);
        FLRC_UNROLL
        for (int c = 0; c < kColumns; ++c) {
          const float product = inputs.unit[c][inputGroup + g] * sizes[g - first4];
          unit[c][g] = product;
          const float* divided = inputs.divided[c] + (inputGroup + g) * kGroup;
          FloatVector values[kGroupVectors];
          FLRC_UNROLL
          for (int v = 0; v < kGroupVectors; ++v) {
            values[v] = hn::Mul(hn::Load(kFloats, divided + v * kLanes), scale[v]);
          }
          IntegerVector low = hn::Zero(kWords), high = low;
          storeRounded<Way, kType>(values, rounded[c][g], [&](ShortVector shorts, int from) HWY_ATTR {
            if constexpr (kType == Dtype::int4) {
              const hn::Rebind<uint8_t, ShortTag> bytes;
              const auto zeros =
                  hn::PromoteTo(kShorts, hn::LoadU(bytes, w.zero.data() + at + g * kGroup + from));
              low = hn::ReorderWidenMulAccumulate(kWords, shorts, zeros, low, high);
            }
          });
          if constexpr (kType == Dtype::int4) {
            const auto zeros = hn::ConvertTo(kFloats, hn::RearrangeToOddPlusEven(low, high));
            offsets[c] = hn::MulAdd(zeros, hn::Set(kFloats, product), offsets[c]);
          }
        }
      }
    }
    if constexpr (kType == Dtype::int4) {
      FLRC_UNROLL
      for (int c = 0; c < kColumns; ++c) offset[c] = sumOf(offsets[c]);
    }
  }
};

// Adds ranks [first, first + ranks) of a panel to y, or begins it with them.
template <class Way, Dtype kType, int kColumns>
HWY_INLINE void addRanks(const PanelsCall& call, int64_t panel, int column, int64_t first, int64_t ranks,
                         const PanelInputs<kColumns>& inputs) {
  constexpr int64_t kWordRanks = kGroup / kGroupWords<kType>;
  const int64_t output = panel * kPanel, left = call.w.outputs - output, width = left < kPanel ? left : kPanel;
  const uint8_t* data = call.w.data.data() + (output * call.w.outputWords() + first / kWordRanks * width) * 4;
  float* y = call.y + column * call.ldy;
  for (int64_t lane = 0; lane < width; lane += kTileVectors * kLanes) {
    TileSums<kTileVectors, kColumns> sums;
    if (first == 0) {
      sums.clear();
    } else {
      sums.load(output + lane, output + width, y, call.ldy);
    }
    const PanelPart part{data + lane * 4, (ranks + kWordRanks - 1) / kWordRanks};
    withWidth(width, [&](auto constant) HWY_ATTR {
      integerTile<Way, kType, false, kTileVectors, kColumns>(
          part, constant, {inputs.rounded[0], inputs.unit[0], nullptr, kRankGroups}, sums);
    });
    if constexpr (kType == Dtype::int4) sums.subtract(inputs.offset);
    sums.store(output + lane, output, output + width, y, call.ldy);
  }
}

template <class Way, Dtype kType, int kColumns>
HWY_INLINE void integerPanelsTimes(const PanelsCall& call, int64_t begin, int64_t end, int column) {
  RankInputs<kColumns> inputs;
  // Ranks are prepared while those before are multiplied: one is all latency, the other all throughput.
  PanelInputs<kColumns> prepared[2];
  // Once even for rank 0, which makes y zero.
  for (int64_t many = 0; many == 0 || many < call.rank; many += kManyRanks) {
    const int64_t ranks = call.rank - many < kManyRanks ? call.rank - many : kManyRanks;
    inputs.set(call, column, many, ranks);
    const int64_t steps = ranks > kRanks ? (ranks + kRanks - 1) / kRanks : 1, all = (end - begin) * steps;
    const auto ranksFrom = [&](int64_t from) { return ranks - from < kRanks ? ranks - from : kRanks; };
    const auto prepare = [&](int64_t i) HWY_ATTR {
      const int64_t from = i % steps * kRanks;
      prepared[i % 2].template set<Way, kType>(call.w, begin + i / steps, many + from, ranksFrom(from), inputs,
                                               from / kGroup);
    };
    prepare(0);
    for (int64_t i = 0; i < all; ++i) {
      if (i + 1 < all) prepare(i + 1);
      const int64_t from = i % steps * kRanks;
      addRanks<Way, kType, kColumns>(call, begin + i / steps, column, many + from, ranksFrom(from),
                                     prepared[i % 2]);
    }
  }
}

template <Dtype kType, int kColumns>
HWY_INLINE void floatPanelsTimes(const PanelsCall& call, int64_t begin, int64_t end, int column) {
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t output = panel * kPanel, left = call.w.outputs - output,
                  width = left < kPanel ? left : kPanel;
    const uint8_t* data = call.w.data.data() + output * call.w.outputWords() * 4;
    for (int64_t lane = 0; lane < width; lane += kTileVectors * kLanes) {
      const PanelPart part{data + lane * 4, call.w.outputWords()};
      TileSums<kTileVectors, kColumns> sums;
      withWidth(width, [&](auto constant) HWY_ATTR {
        floatTile<kType, kTileVectors, kColumns>(part, constant, call.t + column * call.ldt, call.ldt,
                                                 call.rank, sums);
      });
      sums.store(output + lane, output, output + width, call.y + column * call.ldy, call.ldy);
    }
  }
}

template <class Way, Dtype kType, int kColumns>
HWY_INLINE void panelBlockTimes(const PanelsCall& call, int64_t begin, int64_t end, int column) {
  if constexpr (kType == Dtype::int8 || kType == Dtype::int4) {
    integerPanelsTimes<Way, kType, kColumns>(call, begin, end, column);
  } else {
    floatPanelsTimes<kType, kColumns>(call, begin, end, column);
  }
}

template <class Way, Dtype kType>
void panelsTimesOf(const PanelsCall& call, int64_t panelBegin, int64_t panelEnd, int columns) {
  for (int64_t begin = panelBegin; begin < panelEnd; begin += kPanelBlock) {
    const int64_t end = begin + kPanelBlock < panelEnd ? begin + kPanelBlock : panelEnd;
    eachTile(columns, [&](auto some, int column)
                          HWY_ATTR { panelBlockTimes<Way, kType, some>(call, begin, end, column); });
  }
}

template <class Way>
void panelsTimes(const PanelMatrix& w, int64_t panelBegin, int64_t panelEnd, int64_t rank, const float* t,
                 int64_t ldt, int columns, float* y, int64_t ldy) {
  const PanelsCall call{w, rank, t, ldt, y, ldy};
  switch (w.dtype) {
    case Dtype::f32:
      return panelsTimesOf<Way, Dtype::f32>(call, panelBegin, panelEnd, columns);
    case Dtype::bf16:
      return panelsTimesOf<Way, Dtype::bf16>(call, panelBegin, panelEnd, columns);
    case Dtype::int8:
      return panelsTimesOf<Way, Dtype::int8>(call, panelBegin, panelEnd, columns);
    case Dtype::int4:
      return panelsTimesOf<Way, Dtype::int4>(call, panelBegin, panelEnd, columns);
  }
}

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
