// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_ROUND_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_ROUND_INL
#undef FLRC_CPU_ROUND_INL
#else
#define FLRC_CPU_ROUND_INL
#endif

#include "cpu/row_inputs.h"
#include "cpu/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

using WordTag = hn::Repartition<int32_t, FloatTag>;
using ShortTag = hn::Repartition<int16_t, FloatTag>;
using ShortVector = hn::Vec<ShortTag>;
inline constexpr WordTag kWords;
inline constexpr ShortTag kShorts;

// A word of 4 bytes holds int8 weights 0..3 or int4 weights 0..7 of a row, which come apart as kWordParts words
// of two 16-bit values: part p of int8 has weights p and p + 2, of int4 p and p + 4. Inputs lie in the same
// order.
template <Dtype kType>
inline constexpr int kWordParts = kType == Dtype::int8 ? 2 : 4;

// The order of values within 16 bytes.
template <Dtype kType>
HWY_INLINE ShortVector inOrder(ShortVector values) {
  HWY_ALIGN static constexpr uint8_t kInt8[16] = {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};
  HWY_ALIGN static constexpr uint8_t kInt4[16] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};
  const hn::Repartition<uint8_t, FloatTag> bytes;
  const auto order = hn::LoadDup128(bytes, kType == Dtype::int8 ? kInt8 : kInt4);
  return hn::BitCast(kShorts, hn::TableLookupBytes(hn::BitCast(bytes, values), order));
}

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

// What values are multiplied with so that the largest becomes 32767, and what undoes it. Of values so small
// that the factor would overflow, which are as good as 0, both are 0; both are NaN where a value is not finite.
struct RoundingUnit {
  float factor, unit;

  HWY_INLINE explicit RoundingUnit(float largest) {
    const bool zero = largest < 0x1p-100f;
    factor = zero ? 0.0f : 32767.0f / largest;
    unit = zero ? 0.0f : largest / 32767.0f;
  }
};

// A group of values within 32767, rounded; returns their sum by lane.
template <Dtype kType>
HWY_INLINE hn::Vec<WordTag> storeRounded(const FloatVector (&values)[kGroupVectors], RoundedGroup& rounded) {
  const hn::Rebind<int16_t, FloatTag> halves;
  auto sum = hn::Zero(kWords);
  FLRC_UNROLL
  for (int i = 0; i < kGroupVectors; i += 2) {
    const auto low = hn::NearestInt(values[i]), high = hn::NearestInt(values[i + 1]);
    sum = hn::Add(sum, hn::Add(low, high));
    const auto narrow = hn::Combine(kShorts, hn::DemoteTo(halves, high), hn::DemoteTo(halves, low));
    hn::Store(inOrder<kType>(narrow), kShorts, rounded.values + i * kLanes);
  }
  return sum;
}

// x = value * scale, which is returned; and in `sum` the sum of the values, for int4.
template <Dtype kType>
HWY_INLINE float roundGroup(const float* x, RoundedGroup& rounded, float* sum) {
  const RoundingUnit unit(largestIn(x));
  const FloatVector factor = hn::Set(kFloats, unit.factor);
  FloatVector values[kGroupVectors];
  FLRC_UNROLL
  for (int i = 0; i < kGroupVectors; ++i) values[i] = hn::Mul(hn::LoadU(kFloats, x + i * kLanes), factor);
  const auto total = storeRounded<kType>(values, rounded);
  if constexpr (kType == Dtype::int4) *sum = static_cast<float>(hn::GetLane(hn::SumOfLanes(kWords, total)));
  return unit.unit;
}

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
    scale[group] = dtype == Dtype::int8 ? roundGroup<Dtype::int8>(from, rounded[group], nullptr)
                                        : roundGroup<Dtype::int4>(from, rounded[group], sum + group);
  }
}

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
