// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_ROUND_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_ROUND_INL
#undef FLRC_CPU_ROUND_INL
#else
#define FLRC_CPU_ROUND_INL
#endif

#include "cpu/integers-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

// What the largest of a group is rounded to: both bytes of it are the largest signed ones.
inline constexpr float kRoundedMost = 127 * 256 + 127;

// Groups whose largest values and sums are found side by side: one vector of each.
inline constexpr int kAtOnce = 4;

// Lane i of each block of 128 bits: all lanes of v[i] under `op`, which neither order nor grouping changes.
template <class V, class Op>
HWY_INLINE V overLanes(const V (&v)[kAtOnce], const Op& op) {
  const hn::DFromV<V> d;
  const hn::Repartition<uint64_t, decltype(d)> pairs;
  const auto joined = [&](V a, V b) HWY_ATTR {
    return hn::BitCast(pairs, op(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  };
  const auto first = joined(v[0], v[1]), second = joined(v[2], v[3]);
  V all = op(hn::BitCast(d, hn::InterleaveLower(pairs, first, second)),
             hn::BitCast(d, hn::InterleaveUpper(pairs, first, second)));
  if constexpr (kLanes >= 8) all = op(all, hn::SwapAdjacentBlocks(all));
  if constexpr (kLanes >= 16) all = op(all, hn::ReverseBlocks(d, all));
  return all;
}

// The largest sizes of kAtOnce groups of floats, and NaN for one that is not finite. Compared as integers,
// sizes keep their order, and NaN comes out on top.
HWY_INLINE FloatVector largestOfGroups(const float* x) {
  IntegerVector most[kAtOnce];
  FLRC_UNROLL
  for (int g = 0; g < kAtOnce; ++g) {
    most[g] = hn::Zero(kWords);
    FLRC_UNROLL
    for (int i = 0; i < kGroupVectors; ++i) {
      const FloatVector size = hn::Abs(hn::LoadU(kFloats, x + g * kGroup + i * kLanes));
      most[g] = hn::Max(most[g], hn::BitCast(kWords, size));
    }
  }
  const auto larger = [](IntegerVector a, IntegerVector b) HWY_ATTR { return hn::Max(a, b); };
  const FloatVector largest = hn::BitCast(kFloats, overLanes(most, larger));
  return hn::Add(largest, hn::Sub(largest, largest));
}

// `dividend` / `sizes`, and 0 for sizes so small that this would overflow, which are as good as 0.
HWY_INLINE FloatVector inverseOf(FloatVector sizes, float dividend) {
  const auto tiny = hn::Lt(sizes, hn::Set(kFloats, 0x1p-100f));
  return hn::IfThenZeroElse(tiny, hn::Div(hn::Set(kFloats, dividend), sizes));
}

// What the values of kAtOnce groups are multiplied with so that the largest of each becomes kRoundedMost, and
// what undoes it; NaN for a group with a value that is not finite.
struct RoundingUnits {
  float factor[kLanes], unit[kLanes];

  HWY_INLINE explicit RoundingUnits(const float* x) {
    const FloatVector largest = largestOfGroups(x);
    hn::StoreU(inverseOf(largest, kRoundedMost), kFloats, factor);
    hn::StoreU(hn::Mul(largest, hn::Set(kFloats, 1 / kRoundedMost)), kFloats, unit);
  }
};

// kAtOnce groups of `values`, of which `count` are there and zeros follow.
HWY_INLINE const float* paddedGroups(const float* values, int64_t count, float (&padded)[kAtOnce * kGroup]) {
  if (count >= kAtOnce * kGroup) return values;
  for (int64_t i = 0; i < kAtOnce * kGroup; ++i) padded[i] = i < count ? values[i] : 0;
  return padded;
}

// The 16-bit integers nearest to `low` and `high`, which are within kRoundedMost: after adding 1.5 * 2^23 they
// are the lowest bits.
HWY_INLINE ShortVector nearestShorts(FloatVector low, FloatVector high) {
  const FloatVector shift = hn::Set(kFloats, 0x1.8p23f);
  return hn::ConcatEven(kShorts, hn::BitCast(kShorts, hn::Add(high, shift)),
                        hn::BitCast(kShorts, hn::Add(low, shift)));
}

// A group of values within kRoundedMost, rounded; calls each(a vector of them, its first value's place).
template <class Way, Dtype kType, typename Each>
HWY_INLINE void storeRounded(const FloatVector (&values)[kGroupVectors], RoundedGroup& rounded,
                             const Each& each) {
  FLRC_UNROLL
  for (int i = 0; i < kGroupVectors; i += 2) {
    const ShortVector narrow = nearestShorts(values[i], values[i + 1]);
    each(narrow, i * kLanes);
    hn::Store(Way::template arrange<kType>(narrow), kShorts,
              reinterpret_cast<int16_t*>(rounded.words) + i * kLanes);
  }
}

// kAtOnce groups x = value * unit; `sums` of the values, for int4.
template <class Way, Dtype kType>
HWY_INLINE void roundGroups(const float* x, const RoundingUnits& units, RoundedGroup* rounded, int64_t groups,
                            float* sums) {
  IntegerVector totals[kAtOnce];
  FLRC_UNROLL
  for (int g = 0; g < kAtOnce; ++g) {
    IntegerVector low = hn::Zero(kWords), high = low;
    if (g < groups) {
      const FloatVector factor = hn::Set(kFloats, units.factor[g]);
      FloatVector values[kGroupVectors];
      FLRC_UNROLL
      for (int i = 0; i < kGroupVectors; ++i) {
        values[i] = hn::Mul(hn::LoadU(kFloats, x + g * kGroup + i * kLanes), factor);
      }
      storeRounded<Way, kType>(values, rounded[g], [&](ShortVector some, int) HWY_ATTR {
        if constexpr (kType == Dtype::int4) {
          low = hn::ReorderWidenMulAccumulate(kWords, some, hn::Set(kShorts, int16_t{1}), low, high);
        }
      });
    }
    totals[g] = hn::RearrangeToOddPlusEven(low, high);
  }
  if constexpr (kType == Dtype::int4) {
    const auto sum = [](IntegerVector a, IntegerVector b) HWY_ATTR { return hn::Add(a, b); };
    storeFirst(hn::ConvertTo(kFloats, overLanes(totals, sum)), groups, sums);
  }
}

template <class Way>
void roundInputs(const float* x, int64_t cols, Dtype dtype, RoundedGroup* rounded, float* scale, float* sum) {
  const int64_t all = (cols + kGroup - 1) / kGroup;
  for (int64_t first = 0; first < all; first += kAtOnce) {
    const int64_t groups = all - first < kAtOnce ? all - first : kAtOnce;
    float padded[kAtOnce * kGroup];
    const float* from = paddedGroups(x + first * kGroup, cols - first * kGroup, padded);
    const RoundingUnits units(from);
    for (int64_t g = 0; g < groups; ++g) scale[first + g] = units.unit[g];
    if (dtype == Dtype::int8) {
      roundGroups<Way, Dtype::int8>(from, units, rounded + first, groups, nullptr);
    } else {
      roundGroups<Way, Dtype::int4>(from, units, rounded + first, groups, sum + first);
    }
  }
}

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
