// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_REDUCE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_REDUCE_INL
#undef FLRC_CPU_REDUCE_INL
#else
#define FLRC_CPU_REDUCE_INL
#endif

#include <cmath>

#include "cpu/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

// Four running sums hide the latency of a multiply-add.
float dot(const float* x, const float* y, int64_t n) {
  FloatVector a = hn::Zero(kFloats), b = a, c = a, d = a;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    a = hn::MulAdd(hn::LoadU(kFloats, x + i), hn::LoadU(kFloats, y + i), a);
    b = hn::MulAdd(hn::LoadU(kFloats, x + i + kLanes), hn::LoadU(kFloats, y + i + kLanes), b);
    c = hn::MulAdd(hn::LoadU(kFloats, x + i + 2 * kLanes), hn::LoadU(kFloats, y + i + 2 * kLanes), c);
    d = hn::MulAdd(hn::LoadU(kFloats, x + i + 3 * kLanes), hn::LoadU(kFloats, y + i + 3 * kLanes), d);
  }
  for (; i + kLanes <= n; i += kLanes) a = hn::MulAdd(hn::LoadU(kFloats, x + i), hn::LoadU(kFloats, y + i), a);
  if (i < n) b = hn::MulAdd(loadFirst(x + i, n - i), loadFirst(y + i, n - i), b);
  return sumOf(hn::Add(hn::Add(a, b), hn::Add(c, d)));
}

void rmsNorm(const float* x, const float* weight, float eps, int64_t n, float* y) {
  const float inverse = 1.0f / sqrtf(dot(x, x, n) / static_cast<float>(n) + eps);
  const FloatVector factor = hn::Set(kFloats, inverse);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(kFloats, x + i), factor), hn::LoadU(kFloats, weight + i)), kFloats,
               y + i);
  }
  for (; i < n; ++i) y[i] = x[i] * inverse * weight[i];
}

// The sums of sums[0..2] (kernels.h) over one vector of doubles.
struct FisherSums {
  using Tag = hn::ScalableTag<double>;
  using Floats = hn::Rebind<float, Tag>;
  hn::Vec<Tag> products, squares, sizes;

  HWY_INLINE FisherSums() : products(hn::Zero(Tag())), squares(products), sizes(products) {}

  HWY_INLINE void add(const float* g, const float* w) {
    const Tag tag;
    const auto gradient = hn::PromoteTo(tag, hn::LoadU(Floats(), g));
    const auto product = hn::Mul(gradient, hn::PromoteTo(tag, hn::LoadU(Floats(), w)));
    products = hn::MulAdd(product, product, products);
    squares = hn::MulAdd(gradient, gradient, squares);
    sizes = hn::Add(sizes, hn::Abs(product));
  }
};

void fisherReduce(const float* g, const float* w, int64_t n, double* sums) {
  constexpr int kDoubles = HWY_LANES(double);
  FisherSums even, odd;
  int64_t i = 0;
  for (; i + 2 * kDoubles <= n; i += 2 * kDoubles) {
    even.add(g + i, w + i);
    odd.add(g + i + kDoubles, w + i + kDoubles);
  }
  for (; i < n; i += kDoubles) {
    float gradients[kDoubles] = {}, weights[kDoubles] = {};
    for (int j = 0; j < kDoubles && i + j < n; ++j) {
      gradients[j] = g[i + j];
      weights[j] = w[i + j];
    }
    even.add(gradients, weights);
  }
  const FisherSums::Tag tag;
  sums[0] += hn::GetLane(hn::SumOfLanes(tag, hn::Add(even.products, odd.products)));
  sums[1] += hn::GetLane(hn::SumOfLanes(tag, hn::Add(even.squares, odd.squares)));
  sums[2] += hn::GetLane(hn::SumOfLanes(tag, hn::Add(even.sizes, odd.sizes)));
}

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
