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

template <Dtype kType, class Matrix>
HWY_INLINE Group<kType> groupAt(const Matrix& w, int64_t group) {
  Scales<kType> scales;
  scales.expand(w.scale.data(), w.zero.data(), group, 1);
  return Group<kType>(w.data.data(), group, scales, 0);
}

// The first `count` weights of a group, or all if it has fewer.
template <int i, class Weights>
HWY_INLINE void storeGroup(const Weights& group, int64_t count, float* out) {
  if constexpr (i < kGroupVectors) {
    const int64_t left = count - i * kLanes;
    if (left >= kLanes) {
      hn::StoreU(group.template vector<i>(), kFloats, out + i * kLanes);
    } else if (left > 0) {
      storeFirst(group.template vector<i>(), left, out + i * kLanes);
    }
    storeGroup<i + 1>(group, count, out);
  }
}

template <Dtype kType>
void dequantiseRowsOf(const RowMatrix& w, int64_t rowBegin, int64_t rowEnd, float* out, int64_t ld) {
  const int64_t groups = w.stride / kGroup;
  for (int64_t row = rowBegin; row < rowEnd; ++row) {
    float* to = out + (row - rowBegin) * ld;
    for (int64_t g = 0; g < groups; ++g) {
      storeGroup<0>(groupAt<kType>(w, row * groups + g), w.cols - g * kGroup, to + g * kGroup);
    }
  }
}

template <Dtype kType>
void dequantisePanelOf(const PanelMatrix& w, int64_t panel, int64_t rankBegin, int64_t rankEnd, float* out,
                       int64_t ld) {
  constexpr int64_t kGroups = kPanel / kGroup;
  for (int64_t j = rankBegin; j < rankEnd; ++j) {
    for (int64_t g = 0; g < kGroups; ++g) {
      const auto group = groupAt<kType>(w, (panel * w.rank + j) * kGroups + g);
      storeGroup<0>(group, kGroup, out + (j - rankBegin) * ld + g * kGroup);
    }
  }
}

void dequantiseRows(const RowMatrix& w, int64_t rowBegin, int64_t rowEnd, float* out, int64_t ld) {
  switch (w.dtype) {
    case Dtype::f32:
      return dequantiseRowsOf<Dtype::f32>(w, rowBegin, rowEnd, out, ld);
    case Dtype::bf16:
      return dequantiseRowsOf<Dtype::bf16>(w, rowBegin, rowEnd, out, ld);
    case Dtype::int8:
      return dequantiseRowsOf<Dtype::int8>(w, rowBegin, rowEnd, out, ld);
    case Dtype::int4:
      return dequantiseRowsOf<Dtype::int4>(w, rowBegin, rowEnd, out, ld);
  }
}

void dequantisePanel(const PanelMatrix& w, int64_t panel, int64_t rankBegin, int64_t rankEnd, float* out,
                     int64_t ld) {
  switch (w.dtype) {
    case Dtype::f32:
      return dequantisePanelOf<Dtype::f32>(w, panel, rankBegin, rankEnd, out, ld);
    case Dtype::bf16:
      return dequantisePanelOf<Dtype::bf16>(w, panel, rankBegin, rankEnd, out, ld);
    case Dtype::int8:
      return dequantisePanelOf<Dtype::int8>(w, panel, rankBegin, rankEnd, out, ld);
    case Dtype::int4:
      return dequantisePanelOf<Dtype::int4>(w, panel, rankBegin, rankEnd, out, ld);
  }
}

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
