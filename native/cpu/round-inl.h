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

// The largest size in a group of floats, and NaN where one is not finite. Compared as integers, sizes keep
// their order, and NaN comes out on top.
HWY_INLINE float largestIn(const float* x) {
  auto most = hn::Zero(kWords);
  FLRC_UNROLL
  for (int i = 0; i < kGroupVectors; ++i) {
    most = hn::Max(most, hn::BitCast(kWords, hn::Abs(hn::LoadU(kFloats, x + i * kLanes))));
  }
  const float largest = hn::GetLane(hn::BitCast(kFloats, hn::MaxOfLanes(kWords, most)));
  return largest + (largest - largest);
}

// What values are multiplied with so that the largest becomes kRoundedMost, and what undoes it. Of values so
// small that the factor would overflow, which are as good as 0, both are 0; both are NaN where a value is not
// finite.
struct RoundingUnit {
  float factor, unit;

  HWY_INLINE explicit RoundingUnit(float largest) {
    const bool zero = largest < 0x1p-100f;
    factor = zero ? 0.0f : kRoundedMost / largest;
    unit = zero ? 0.0f : largest * (1 / kRoundedMost);
  }
};

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

// x = value * scale, which is returned; and in `sum` the sum of the values, for int4.
template <class Way, Dtype kType>
HWY_INLINE float roundGroup(const float* x, RoundedGroup& rounded, float* sum) {
  const RoundingUnit unit(largestIn(x));
  const FloatVector factor = hn::Set(kFloats, unit.factor);
  FloatVector values[kGroupVectors];
  FLRC_UNROLL
  for (int i = 0; i < kGroupVectors; ++i) values[i] = hn::Mul(hn::LoadU(kFloats, x + i * kLanes), factor);
  IntegerVector low = hn::Zero(kWords), high = low;
  storeRounded<Way, kType>(values, rounded, [&](ShortVector some, int) HWY_ATTR {
    if constexpr (kType == Dtype::int4) {
      low = hn::ReorderWidenMulAccumulate(kWords, some, hn::Set(kShorts, int16_t{1}), low, high);
    }
  });
  if constexpr (kType == Dtype::int4) {
    *sum = static_cast<float>(hn::GetLane(hn::SumOfLanes(kWords, hn::RearrangeToOddPlusEven(low, high))));
  }
  return unit.unit;
}

template <class Way>
void roundInputs(const float* x, int64_t cols, Dtype dtype, RoundedGroup* rounded, float* scale, float* sum) {
  const int64_t groups = (cols + kGroup - 1) / kGroup;
  for (int64_t group = 0; group < groups; ++group) {
    const float* from = x + group * kGroup;
    float last[kGroup];
    const int64_t left = cols - group * kGroup;
    if (left < kGroup) {
      for (int64_t i = 0; i < kGroup; ++i) last[i] = i < left ? from[i] : 0;
      from = last;
    }
    scale[group] = dtype == Dtype::int8 ? roundGroup<Way, Dtype::int8>(from, rounded[group], nullptr)
                                        : roundGroup<Way, Dtype::int4>(from, rounded[group], sum + group);
  }
}

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
