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

template <Dtype kType>
inline constexpr int64_t kGroupBytes = kType == Dtype::f32    ? kGroup * 4
                                       : kType == Dtype::bf16 ? kGroup * 2
                                       : kType == Dtype::int8 ? kGroup
                                                              : kGroup / 2;

// Groups whose scales are expanded to f32 together: a broadcast from there is one load, while a scale on
// its own takes several instructions for every row.
inline constexpr int kStretch = 16;

// The scales of a stretch of consecutive groups; offset = -zero * scale, so that int4's (q - zero) * scale is
// q * scale + offset. All of these products are exact in f32.
template <Dtype kType>
struct Scales {
  static constexpr bool kHasScale = kType == Dtype::int8 || kType == Dtype::int4;
  static constexpr bool kHasOffset = kType == Dtype::int4;
  float scale[kHasScale ? kStretch : 1];
  float offset[kHasOffset ? kStretch : 1];

  // scales, zeros: a matrix's; groups [first, first + count), count <= kStretch.
  HWY_INLINE void expand(const uint8_t* scales, const uint8_t* zeros, int64_t first, int64_t count) {
    if constexpr (kHasScale) {
      const auto* bits = reinterpret_cast<const uint16_t*>(scales) + first;
      if (count == kStretch) {
        FLRC_UNROLL
        for (int i = 0; i < kStretch; i += kLanes) hn::StoreU(expandBf16(bits + i), kFloats, scale + i);
      } else {
        for (int64_t i = 0; i < count; ++i) scale[i] = bf16ToFloat(bits[i]);
      }
    }
    if constexpr (kHasOffset) {
      if (count == kStretch) {
        FLRC_UNROLL
        for (int i = 0; i < kStretch; i += kLanes) {
          const hn::Rebind<uint8_t, FloatTag> bytes;
          const hn::Rebind<int32_t, FloatTag> words;
          const auto zero = hn::ConvertTo(kFloats, hn::PromoteTo(words, hn::LoadU(bytes, zeros + first + i)));
          hn::StoreU(hn::Mul(hn::Neg(hn::LoadU(kFloats, scale + i)), zero), kFloats, offset + i);
        }
      } else {
        for (int64_t i = 0; i < count; ++i) offset[i] = -scale[i] * static_cast<float>(zeros[first + i]);
      }
    }
  }
};

// A group of weights, the one with index `group` of a matrix and `place` of its stretch, as f32: vector<i>()
// holds its weights i * kLanes and following. Like all classes that hold vectors it has no implicit
// constructor, which would be compiled for the static target and may then not be inlined.
template <Dtype kType>
struct Group;

template <>
struct Group<Dtype::f32> {
  const float* at;

  Group() = default;

  HWY_INLINE Group(const uint8_t* data, int64_t group, const Scales<Dtype::f32>&, int64_t)
      : at(reinterpret_cast<const float*>(data) + group * kGroup) {}
  template <int i>
  HWY_INLINE FloatVector vector() const {
    return hn::LoadU(kFloats, at + i * kLanes);
  }
};

template <>
struct Group<Dtype::bf16> {
  const uint16_t* at;

  Group() = default;

  HWY_INLINE Group(const uint8_t* data, int64_t group, const Scales<Dtype::bf16>&, int64_t)
      : at(reinterpret_cast<const uint16_t*>(data) + group * kGroup) {}
  template <int i>
  HWY_INLINE FloatVector vector() const {
    return expandBf16(at + i * kLanes);
  }
};

template <>
struct Group<Dtype::int8> {
  const int8_t* at;
  FloatVector scale;

  HWY_INLINE Group() {}

  HWY_INLINE Group(const uint8_t* data, int64_t group, const Scales<Dtype::int8>& scales, int64_t place)
      : at(reinterpret_cast<const int8_t*>(data) + group * kGroup),
        scale(hn::Set(kFloats, scales.scale[place])) {}
  template <int i>
  HWY_INLINE FloatVector vector() const {
    const hn::Rebind<int8_t, FloatTag> bytes;
    const hn::Rebind<int32_t, FloatTag> words;
    return hn::Mul(hn::ConvertTo(kFloats, hn::PromoteTo(words, hn::LoadU(bytes, at + i * kLanes))), scale);
  }
};

template <>
struct Group<Dtype::int4> {
  using Bytes = hn::FixedTag<uint8_t, 16>;
  hn::Vec<Bytes> first, second;  // the group's 32 nibbles, a byte each
  FloatVector scale, offset;

  HWY_INLINE Group() {}

  HWY_INLINE Group(const uint8_t* data, int64_t group, const Scales<Dtype::int4>& scales, int64_t place)
      : scale(hn::Set(kFloats, scales.scale[place])), offset(hn::Set(kFloats, scales.offset[place])) {
    const Bytes bytes;
    const auto packed = hn::LoadU(bytes, data + group * (kGroup / 2));
    const auto low = hn::And(packed, hn::Set(bytes, 15));
    const auto high = hn::ShiftRight<4>(packed);
    first = hn::InterleaveLower(bytes, low, high);
    second = hn::InterleaveUpper(bytes, low, high);
  }
  template <int i>
  HWY_INLINE FloatVector vector() const {
    constexpr int kFirst = i * kLanes;
    const hn::Rebind<int32_t, FloatTag> words;
    const auto q =
        hn::ConvertTo(kFloats, hn::PromoteTo(words, slice<kFirst % 16>(kFirst < 16 ? first : second)));
    return hn::MulAdd(q, scale, offset);
  }

 private:
  // kLanes bytes of `nibbles` from kFirst on, in the vector type that PromoteTo takes.
  template <int kFirst>
  static HWY_INLINE auto slice(hn::Vec<Bytes> nibbles) {
    if constexpr (kFirst > 0) nibbles = hn::ShiftRightBytes<kFirst>(Bytes(), nibbles);
    return lowest(nibbles);
  }
  template <class Vector>
  static HWY_INLINE auto lowest(Vector bytes) {
    if constexpr (hn::MaxLanes(hn::DFromV<Vector>()) > kLanes) {
      return lowest(hn::LowerHalf(bytes));
    } else {
      return bytes;
    }
  }
};

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

HWY_INLINE float sumOf(FloatVector vector) { return hn::GetLane(hn::SumOfLanes(kFloats, vector)); }

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
