// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_WEIGHTS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_WEIGHTS_INL
#undef FLRC_CPU_WEIGHTS_INL
#else
#define FLRC_CPU_WEIGHTS_INL
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "tensor/matrix.h"

// GCC unrolls a loop over vectors (an array of registers) only when told to.
#define FLRC_UNROLL _Pragma("GCC unroll 16")

HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatVector = hn::Vec<FloatTag>;
inline constexpr FloatTag kFloats;
inline constexpr int kLanes = HWY_LANES(float);
// Vectors that hold one group of weights.
inline constexpr int kGroupVectors = static_cast<int>(kGroup) / kLanes;
static_assert(kGroupVectors * kLanes == kGroup, "a group must be whole vectors");

HWY_INLINE FloatVector expandBf16(const uint16_t* bits) {
  const hn::Rebind<uint16_t, FloatTag> halves;
  const hn::Rebind<uint32_t, FloatTag> words;
  return hn::BitCast(kFloats, hn::ShiftLeft<16>(hn::PromoteTo(words, hn::LoadU(halves, bits))));
}

// Up to a vector of values with zeros after them; nothing behind `count` values is read.
HWY_INLINE FloatVector loadFirst(const float* x, int64_t count, float padding = 0) {
  HWY_ALIGN float values[kLanes];
  for (int i = 0; i < kLanes; ++i) values[i] = i < count ? x[i] : padding;
  return hn::Load(kFloats, values);
}

HWY_INLINE void storeFirst(FloatVector vector, int64_t count, float* out) {
  HWY_ALIGN float values[kLanes];
  hn::Store(vector, kFloats, values);
  for (int64_t i = 0; i < count; ++i) out[i] = values[i];
}

HWY_INLINE FloatVector firstOf(FloatVector vector, int64_t count) {
  return hn::IfThenElseZero(hn::FirstN(kFloats, static_cast<size_t>(count)), vector);
}

HWY_INLINE float sumOf(FloatVector vector) { return hn::GetLane(hn::SumOfLanes(kFloats, vector)); }

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
