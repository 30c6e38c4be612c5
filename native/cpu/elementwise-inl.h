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

HWY_INLINE FloatVector gated(FloatVector gate, FloatVector up) {
  return hn::Mul(hn::Mul(gate, sigmoid(gate)), up);
}

void siluTimes(const float* gate, const float* up, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    hn::StoreU(gated(hn::LoadU(kFloats, gate + i), hn::LoadU(kFloats, up + i)), kFloats, y + i);
  }
  if (i < n) storeFirst(gated(loadFirst(gate + i, n - i), loadFirst(up + i, n - i)), n - i, y + i);
}

struct GatedGradient {
  FloatVector gate, up;
};

HWY_INLINE GatedGradient gatedGradient(FloatVector gate, FloatVector up, FloatVector dy) {
  const FloatVector one = hn::Set(kFloats, 1.0f), s = sigmoid(gate);
  const FloatVector slope = hn::Mul(s, hn::MulAdd(gate, hn::Sub(one, s), one));
  return {hn::Mul(hn::Mul(dy, up), slope), hn::Mul(dy, hn::Mul(gate, s))};
}

void siluTimesBackward(const float* gate, const float* up, const float* dy, int64_t n, float* dGate,
                       float* dUp) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const GatedGradient d =
        gatedGradient(hn::LoadU(kFloats, gate + i), hn::LoadU(kFloats, up + i), hn::LoadU(kFloats, dy + i));
    hn::StoreU(d.gate, kFloats, dGate + i);
    hn::StoreU(d.up, kFloats, dUp + i);
  }
  if (i < n) {
    const GatedGradient d =
        gatedGradient(loadFirst(gate + i, n - i), loadFirst(up + i, n - i), loadFirst(dy + i, n - i));
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
