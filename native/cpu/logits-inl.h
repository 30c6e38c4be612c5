// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_LOGITS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_LOGITS_INL
#undef FLRC_CPU_LOGITS_INL
#else
#define FLRC_CPU_LOGITS_INL
#endif

#include "cpu/kernels.h"
#include "cpu/weights-inl.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

// The largest of n values; `finite` is cleared if one is not.
HWY_INLINE float largestOf(const float* x, int64_t n, bool& finite) {
  FloatVector most = hn::Set(kFloats, -HUGE_VALF), broken = hn::Zero(kFloats);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const FloatVector values = hn::LoadU(kFloats, x + i);
    most = hn::Max(most, values);
    broken = hn::Add(broken, hn::Sub(values, values));
  }
  if (i < n) {
    const FloatVector values = loadFirst(x + i, n - i, x[i]);
    most = hn::Max(most, values);
    broken = hn::Add(broken, hn::Sub(values, values));
  }
  finite = finite && sumOf(broken) == 0;
  return hn::GetLane(hn::MaxOfLanes(kFloats, most));
}

LogitSums logitSums(const float* logits, int64_t n) {
  // Found block by block, so that its index is looked for in one of them.
  constexpr int64_t kBlock = 1024;
  LogitSums sums;
  float top = -HUGE_VALF;
  int64_t at = 0;
  for (int64_t i = 0; i < n; i += kBlock) {
    const float most = largestOf(logits + i, n - i < kBlock ? n - i : kBlock, sums.finite);
    if (most <= top) continue;
    top = most;
    at = i;
  }
  if (!sums.finite) return sums;
  while (logits[at] != top) ++at;
  sums.best = at;

  const hn::ScalableTag<double> doubles;
  constexpr int kDoubles = HWY_LANES(double);
  const hn::Rebind<float, decltype(doubles)> floats;
  const auto most = hn::Set(doubles, static_cast<double>(top));
  auto total = hn::Zero(doubles), weighted = total;
  const auto add = [&](auto values, int64_t count) HWY_ATTR {
    const auto shifted = hn::Sub(hn::PromoteTo(doubles, values), most);
    const auto some = hn::FirstN(doubles, static_cast<size_t>(count));
    const auto power = hn::IfThenElseZero(some, hn::Exp(doubles, shifted));
    total = hn::Add(total, power);
    weighted = hn::MulAdd(power, shifted, weighted);
  };
  int64_t i = 0;
  for (; i + kDoubles <= n; i += kDoubles) add(hn::LoadU(floats, logits + i), kDoubles);
  if (i < n) {
    float last[kDoubles];
    for (int j = 0; j < kDoubles; ++j) last[j] = i + j < n ? logits[i + j] : top;
    add(hn::LoadU(floats, last), n - i);
  }
  sums.sum = hn::GetLane(hn::SumOfLanes(doubles, total));
  sums.weighted = hn::GetLane(hn::SumOfLanes(doubles, weighted));
  return sums;
}

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
