// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_ELEMENTWISE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_ELEMENTWISE_INL
#undef FLRC_CPU_ELEMENTWISE_INL
#else
#define FLRC_CPU_ELEMENTWISE_INL
#endif

#include <cmath>

#include "cpu/weights-inl.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

// Everywhere below the last, partial vector goes through the same operations as a whole one: an element's
// result does not depend on where it lies.

HWY_INLINE FloatVector sigmoid(FloatVector x) {
  const FloatVector one = hn::Set(kFloats, 1.0f);
  // Past 88 e^-x would overflow; there the sigmoid is 0 to within 1e-38 anyway.
  const FloatVector power = hn::Exp(kFloats, hn::Min(hn::Neg(x), hn::Set(kFloats, 88.0f)));
  return hn::Div(one, hn::Add(one, power));
}

// An activation's value, and its slope.
struct Activated {
  FloatVector value, slope;
};

struct Silu {
  static HWY_INLINE FloatVector value(FloatVector x) { return hn::Mul(x, sigmoid(x)); }
  static HWY_INLINE Activated both(FloatVector x) {
    const FloatVector one = hn::Set(kFloats, 1.0f), s = sigmoid(x);
    return {hn::Mul(x, s), hn::Mul(s, hn::MulAdd(x, hn::Sub(one, s), one))};
  }
};

// x / 2 (1 + tanh(u)) is x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3): without tanh nothing cancels.
struct GeluTanh {
  static constexpr float kLinear = 1.5957691216f, kCubic = 0.0713548162726f;

  static HWY_INLINE FloatVector power(FloatVector x) {
    return hn::Mul(x, hn::MulAdd(hn::Mul(x, x), hn::Set(kFloats, kCubic), hn::Set(kFloats, kLinear)));
  }
  static HWY_INLINE FloatVector value(FloatVector x) { return hn::Mul(x, sigmoid(power(x))); }
  static HWY_INLINE Activated both(FloatVector x) {
    const FloatVector one = hn::Set(kFloats, 1.0f), s = sigmoid(power(x));
    const FloatVector rise =
        hn::Mul(x, hn::MulAdd(hn::Mul(x, x), hn::Set(kFloats, 3 * kCubic), hn::Set(kFloats, kLinear)));
    return {hn::Mul(x, s), hn::Mul(s, hn::MulAdd(rise, hn::Sub(one, s), one))};
  }
};

template <class Gate>
void gatedTimes(const float* gate, const float* up, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    hn::StoreU(hn::Mul(Gate::value(hn::LoadU(kFloats, gate + i)), hn::LoadU(kFloats, up + i)), kFloats, y + i);
  }
  if (i < n)
    storeFirst(hn::Mul(Gate::value(loadFirst(gate + i, n - i)), loadFirst(up + i, n - i)), n - i, y + i);
}

struct GatedGradient {
  FloatVector gate, up;
};

template <class Gate>
HWY_INLINE GatedGradient gatedGradient(FloatVector gate, FloatVector up, FloatVector dy) {
  const Activated at = Gate::both(gate);
  return {hn::Mul(hn::Mul(dy, up), at.slope), hn::Mul(dy, at.value)};
}

template <class Gate>
void gatedTimesBackward(const float* gate, const float* up, const float* dy, int64_t n, float* dGate,
                        float* dUp) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const GatedGradient d = gatedGradient<Gate>(hn::LoadU(kFloats, gate + i), hn::LoadU(kFloats, up + i),
                                                hn::LoadU(kFloats, dy + i));
    hn::StoreU(d.gate, kFloats, dGate + i);
    hn::StoreU(d.up, kFloats, dUp + i);
  }
  if (i < n) {
    const GatedGradient d =
        gatedGradient<Gate>(loadFirst(gate + i, n - i), loadFirst(up + i, n - i), loadFirst(dy + i, n - i));
    storeFirst(d.gate, n - i, dGate + i);
    storeFirst(d.up, n - i, dUp + i);
  }
}

void add(const float* y, int64_t n, float* x) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    hn::StoreU(hn::Add(hn::LoadU(kFloats, x + i), hn::LoadU(kFloats, y + i)), kFloats, x + i);
  }
  for (; i < n; ++i) x[i] += y[i];
}

void axpy(float a, const float* x, int64_t n, float* y) {
  const FloatVector factor = hn::Set(kFloats, a);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    hn::StoreU(hn::MulAdd(factor, hn::LoadU(kFloats, x + i), hn::LoadU(kFloats, y + i)), kFloats, y + i);
  }
  if (i < n) storeFirst(hn::MulAdd(factor, loadFirst(x + i, n - i), loadFirst(y + i, n - i)), n - i, y + i);
}

// e^x, and NaN for NaN: Highway's Exp returns 0 for it, which would hide a broken activation.
HWY_INLINE FloatVector expKeepingNan(FloatVector x) {
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(kFloats, x));
}

float softmax(float* x, int64_t n, float scale) {
  const float lowest = -HUGE_VALF;
  const FloatVector factor = hn::Set(kFloats, scale);
  FloatVector most = hn::Set(kFloats, lowest);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const FloatVector scaled = hn::Mul(hn::LoadU(kFloats, x + i), factor);
    hn::StoreU(scaled, kFloats, x + i);
    most = hn::Max(most, scaled);
  }
  if (i < n) {
    storeFirst(hn::Mul(loadFirst(x + i, n - i), factor), n - i, x + i);
    most = hn::Max(most, loadFirst(x + i, n - i, lowest));
  }
  most = hn::MaxOfLanes(kFloats, most);

  FloatVector sums = hn::Zero(kFloats);
  for (i = 0; i + kLanes <= n; i += kLanes) {
    const FloatVector power = expKeepingNan(hn::Sub(hn::LoadU(kFloats, x + i), most));
    hn::StoreU(power, kFloats, x + i);
    sums = hn::Add(sums, power);
  }
  if (i < n) {
    const FloatVector power = expKeepingNan(hn::Sub(loadFirst(x + i, n - i, lowest), most));
    storeFirst(power, n - i, x + i);
    sums = hn::Add(sums, power);
  }
  const float sum = sumOf(sums);

  const FloatVector inverse = hn::Set(kFloats, 1.0f / sum);
  for (i = 0; i + kLanes <= n; i += kLanes) {
    hn::StoreU(hn::Mul(hn::LoadU(kFloats, x + i), inverse), kFloats, x + i);
  }
  if (i < n) storeFirst(hn::Mul(loadFirst(x + i, n - i), inverse), n - i, x + i);
  return hn::GetLane(most) + logf(sum);
}

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
