// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_PANELS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_PANELS_INL
#undef FLRC_CPU_PANELS_INL
#else
#define FLRC_CPU_PANELS_INL
#endif

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
// rounded for every panel: to 2^-15 of the product of the largest input and the largest scale in a group of
// ranks. That bound saves looking for the largest of their products panel by panel.
inline constexpr int64_t kRankGroups = 16, kRanks = kRankGroups * kGroup;
// Panels that share a preparation of inputs, few enough that their weights stay in the cache for further
// columns.
inline constexpr int64_t kPanelBlock = 16;

// `ranks` of the inputs from some rank on, padded with zeros to whole groups: as they are, divided so that a
// group's largest is 32767, and what a group was divided by.
template <int kColumns>
struct RankInputs {
  float t[kColumns][kRanks], divided[kColumns][kRanks], unit[kColumns][kRankGroups];

  HWY_INLINE void set(const PanelsCall& call, int column, int64_t first, int64_t ranks) {
    for (int c = 0; c < kColumns; ++c) {
      const float* from = call.t + (column + c) * call.ldt + first;
      for (int64_t j = 0; j < ranks; j += kGroup) {
        for (int64_t i = j; i < j + kGroup; ++i) t[c][i] = i < ranks ? from[i] : 0;
        const RoundingUnit of(largestIn(t[c] + j));
        unit[c][j / kGroup] = of.unit;
        for (int64_t i = j; i < j + kGroup; i += kLanes) {
          const FloatVector factor = hn::Set(kFloats, of.factor);
          hn::StoreU(hn::Mul(hn::LoadU(kFloats, t[c] + i), factor), kFloats, divided[c] + i);
        }
      }
    }
  }
};

// The scales of one panel: divided by a group's largest, that, and zero times scale.
template <Dtype kType>
struct PanelScales {
  float divided[kRanks], largest[kRankGroups], offset[kType == Dtype::int4 ? kRanks : 1];

  HWY_INLINE void set(const PanelMatrix& w, int64_t panel, int64_t first, int64_t ranks) {
    const int64_t at = panel * w.rank + first;
    const auto* scales = reinterpret_cast<const uint16_t*>(w.scale.data()) + at;
    for (int64_t j = 0; j < ranks; j += kGroup) {
      for (int64_t i = j; i < j + kGroup; i += kLanes) {
        const FloatVector scale = i < ranks ? firstOf(expandBf16(scales + i), ranks - i) : hn::Zero(kFloats);
        hn::StoreU(scale, kFloats, divided + i);
        if constexpr (kType == Dtype::int4) {
          FloatVector zero = hn::Zero(kFloats);
          if (i < ranks) {
            const hn::Rebind<uint8_t, FloatTag> bytes;
            zero = hn::ConvertTo(kFloats, hn::PromoteTo(kWords, hn::LoadU(bytes, w.zero.data() + at + i)));
          }
          hn::StoreU(hn::Mul(scale, zero), kFloats, offset + i);
        }
      }
      const float most = largestIn(divided + j);
      largest[j / kGroup] = most;
      const FloatVector inverse = hn::Set(kFloats, most < 0x1p-100f ? 0.0f : 1.0f / most);
      for (int64_t i = j; i < j + kGroup; i += kLanes) {
        hn::StoreU(hn::Mul(hn::LoadU(kFloats, divided + i), inverse), kFloats, divided + i);
      }
    }
  }
};

// Adds ranks [first, first + ranks) of a panel to y, or begins it with them.
template <Dtype kType, int kColumns>
HWY_INLINE void addRanks(const PanelsCall& call, int64_t panel, int column, int64_t first, int64_t ranks,
                         const RankInputs<kColumns>& inputs) {
  constexpr int64_t kWordRanks = 2 * kWordParts<kType>;
  PanelScales<kType> scales;
  scales.set(call.w, panel, first, ranks);
  RoundedGroup rounded[kColumns][kRankGroups];
  float unit[kColumns][kRankGroups];
  float offset[kColumns] = {};
  for (int c = 0; c < kColumns; ++c) {
    FloatVector offsets = hn::Zero(kFloats);
    for (int64_t j = 0; j < ranks; j += kGroup) {
      FloatVector values[kGroupVectors];
      FLRC_UNROLL
      for (int v = 0; v < kGroupVectors; ++v) {
        const int64_t i = j + v * kLanes;
        values[v] = hn::Mul(hn::LoadU(kFloats, inputs.divided[c] + i), hn::LoadU(kFloats, scales.divided + i));
        if constexpr (kType == Dtype::int4) {
          offsets =
              hn::MulAdd(hn::LoadU(kFloats, inputs.t[c] + i), hn::LoadU(kFloats, scales.offset + i), offsets);
        }
      }
      storeRounded<kType>(values, rounded[c][j / kGroup]);
      unit[c][j / kGroup] = inputs.unit[c][j / kGroup] * scales.largest[j / kGroup];
    }
    if constexpr (kType == Dtype::int4) offset[c] = sumOf(offsets);
  }

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
    const PanelPart part{data + lane * 4, width, (ranks + kWordRanks - 1) / kWordRanks};
    integerTile<kType, false, kTileVectors, kColumns>(part, {rounded[0], unit[0], nullptr, kRankGroups}, sums);
    if constexpr (kType == Dtype::int4) sums.subtract(offset);
    sums.store(output + lane, output, output + width, y, call.ldy);
  }
}

template <Dtype kType, int kColumns>
HWY_INLINE void integerPanelsTimes(const PanelsCall& call, int64_t begin, int64_t end, int column) {
  RankInputs<kColumns> inputs;
  // Once even for rank 0, which makes y zero.
  for (int64_t first = 0; first == 0 || first < call.rank; first += kRanks) {
    const int64_t ranks = call.rank - first < kRanks ? call.rank - first : kRanks;
    inputs.set(call, column, first, ranks);
    for (int64_t panel = begin; panel < end; ++panel) {
      addRanks<kType, kColumns>(call, panel, column, first, ranks, inputs);
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
      const PanelPart part{data + lane * 4, width, call.w.outputWords()};
      TileSums<kTileVectors, kColumns> sums;
      floatTile<kType, kTileVectors, kColumns>(part, call.t + column * call.ldt, call.ldt, call.rank, sums);
      sums.store(output + lane, output, output + width, call.y + column * call.ldy, call.ldy);
    }
  }
}

template <Dtype kType, int kColumns>
HWY_INLINE void panelBlockTimes(const PanelsCall& call, int64_t begin, int64_t end, int column) {
  if constexpr (kType == Dtype::int8 || kType == Dtype::int4) {
    integerPanelsTimes<kType, kColumns>(call, begin, end, column);
  } else {
    floatPanelsTimes<kType, kColumns>(call, begin, end, column);
  }
}

template <Dtype kType>
void panelsTimesOf(const PanelsCall& call, int64_t panelBegin, int64_t panelEnd, int columns) {
  for (int64_t begin = panelBegin; begin < panelEnd; begin += kPanelBlock) {
    const int64_t end = begin + kPanelBlock < panelEnd ? begin + kPanelBlock : panelEnd;
    int column = 0;
    for (; column + kTileColumns <= columns; column += kTileColumns) {
      panelBlockTimes<kType, kTileColumns>(call, begin, end, column);
    }
    if constexpr (kTileColumns > 2) {
      for (; column + 2 <= columns; column += 2) panelBlockTimes<kType, 2>(call, begin, end, column);
    }
    for (; column < columns; ++column) panelBlockTimes<kType, 1>(call, begin, end, column);
  }
}

void panelsTimes(const PanelMatrix& w, int64_t panelBegin, int64_t panelEnd, int64_t rank, const float* t,
                 int64_t ldt, int columns, float* y, int64_t ldy) {
  const PanelsCall call{w, rank, t, ldt, y, ldy};
  switch (w.dtype) {
    case Dtype::f32:
      return panelsTimesOf<Dtype::f32>(call, panelBegin, panelEnd, columns);
    case Dtype::bf16:
      return panelsTimesOf<Dtype::bf16>(call, panelBegin, panelEnd, columns);
    case Dtype::int8:
      return panelsTimesOf<Dtype::int8>(call, panelBegin, panelEnd, columns);
    case Dtype::int4:
      return panelsTimesOf<Dtype::int4>(call, panelBegin, panelEnd, columns);
  }
}

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
