// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_PANELS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_PANELS_INL
#undef FLRC_CPU_PANELS_INL
#else
#define FLRC_CPU_PANELS_INL
#endif

#include "cpu/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

inline constexpr int kPanelGroups = static_cast<int>(kPanel / kGroup);
// Groups of a panel whose sums stay in registers while ranks stream by, for one column and for several, and
// how many that is at most. An output's sum runs over the ranks in order, one at a time, so that the tile it
// lies in makes no difference.
#if HWY_TARGET == HWY_AVX3
inline constexpr int kLoneGroups = 2, kTileGroups = 2, kPanelColumns = 4;
#elif HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_NEON
inline constexpr int kLoneGroups = 2, kTileGroups = 1, kPanelColumns = 2;
#else
inline constexpr int kLoneGroups = 1, kTileGroups = 1, kPanelColumns = 1;
#endif

struct PanelsCall {
  const PanelMatrix& w;
  int64_t rankBegin, rankEnd;
  const float* t;  // [columns][ldt]
  int64_t ldt;
  float* y;  // [columns][ldy]
  int64_t ldy;
};

template <Dtype kType, int kGroups, int kColumns>
struct PanelSums {
  FloatVector sum[kColumns][kGroups * kGroupVectors];

  HWY_INLINE PanelSums() {}  // not the implicit one: see Group

  HWY_INLINE void clear() {
    FLRC_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      FLRC_UNROLL
      for (int v = 0; v < kGroups * kGroupVectors; ++v) sum[c][v] = hn::Zero(kFloats);
    }
  }

  template <int g, int i>
  HWY_INLINE void addVectors(const Group<kType>& group, const FloatVector* t) {
    if constexpr (i < kGroupVectors) {
      const FloatVector w = group.template vector<i>();
      FLRC_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        sum[c][g * kGroupVectors + i] = hn::MulAdd(w, t[c], sum[c][g * kGroupVectors + i]);
      }
      addVectors<g, i + 1>(group, t);
    }
  }

  template <int g>
  HWY_INLINE void addGroups(const uint8_t* data, int64_t group, const Scales<kType>& scales, int64_t place,
                            const FloatVector* t) {
    if constexpr (g < kGroups) {
      addVectors<g, 0>(Group<kType>(data, group + g, scales, place + g), t);
      addGroups<g + 1>(data, group, scales, place, t);
    }
  }
};

// Outputs of groups [firstGroup, firstGroup + kGroups) of a panel for kColumns columns from `column` on.
template <Dtype kType, int kGroups, int kColumns>
HWY_INLINE void panelTileTimes(const PanelsCall& call, int64_t panel, int firstGroup, int column) {
  constexpr int64_t kStretchRanks = kStretch / kPanelGroups;
  const uint8_t* data = call.w.data.data();
  PanelSums<kType, kGroups, kColumns> sums;
  sums.clear();
  for (int64_t first = call.rankBegin; first < call.rankEnd; first += kStretchRanks) {
    const int64_t ranks = call.rankEnd - first < kStretchRanks ? call.rankEnd - first : kStretchRanks;
    const int64_t group = (panel * call.w.rank + first) * kPanelGroups;
    const float* t = call.t + column * call.ldt + first - call.rankBegin;
    Scales<kType> scales;
    scales.expand(call.w.scale.data(), call.w.zero.data(), group, ranks * kPanelGroups);
    for (int64_t j = 0; j < ranks; ++j) {
      FloatVector weights[kColumns];
      FLRC_UNROLL
      for (int c = 0; c < kColumns; ++c) weights[c] = hn::Set(kFloats, t[c * call.ldt + j]);
      const int64_t place = j * kPanelGroups + firstGroup;
      sums.template addGroups<0>(data, group + place, scales, place, weights);
    }
  }

  const int64_t output = panel * kPanel + firstGroup * kGroup;
  FLRC_UNROLL
  for (int c = 0; c < kColumns; ++c) {
    float* y = call.y + (column + c) * call.ldy + output;
    FLRC_UNROLL
    for (int v = 0; v < kGroups * kGroupVectors; ++v) {
      const int64_t left = call.w.outputs - output - v * kLanes;
      if (left >= kLanes) {
        hn::StoreU(sums.sum[c][v], kFloats, y + v * kLanes);
      } else if (left > 0) {
        storeFirst(sums.sum[c][v], left, y + v * kLanes);
      }
    }
  }
}

// A whole panel, kGroups at a time.
template <Dtype kType, int kGroups, int kColumns>
HWY_INLINE void panelTimes(const PanelsCall& call, int64_t panel, int column) {
  for (int group = 0; group < kPanelGroups; group += kGroups) {
    panelTileTimes<kType, kGroups, kColumns>(call, panel, group, column);
  }
}

template <Dtype kType>
void panelsTimesOf(const PanelsCall& call, int64_t panelBegin, int64_t panelEnd, int columns) {
  for (int64_t panel = panelBegin; panel < panelEnd; ++panel) {
    int column = 0;
    if constexpr (kPanelColumns > 1) {
      for (; column + kPanelColumns <= columns; column += kPanelColumns) {
        panelTimes<kType, kTileGroups, kPanelColumns>(call, panel, column);
      }
    }
    if constexpr (kPanelColumns > 2) {
      for (; column + 2 <= columns; column += 2) panelTimes<kType, kTileGroups, 2>(call, panel, column);
    }
    for (; column < columns; ++column) panelTimes<kType, kLoneGroups, 1>(call, panel, column);
  }
}

void panelsTimes(const PanelMatrix& w, int64_t panelBegin, int64_t panelEnd, int64_t rankBegin, int64_t rankEnd,
                 const float* t, int64_t ldt, int columns, float* y, int64_t ldy) {
  const PanelsCall call{w, rankBegin, rankEnd, t, ldt, y, ldy};
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
