// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_GATHER_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_GATHER_INL
#undef FLRC_CPU_GATHER_INL
#else
#define FLRC_CPU_GATHER_INL
#endif

#include "cpu/kernels.h"
#include "cpu/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX3
// A vector of outputs takes the next of t and the next of u, each spread over the places that are its own:
// looking outputs up one by one takes several times as long.
template <bool kAdds>
HWY_INLINE void gatherOf(const GatherMap& map, const float* latent, float* y) {
  if (map.begin >= map.end) return;
  int64_t before = __builtin_popcount(map.taken[map.begin / 32] & ((1u << map.begin % 32) - 1));
  for (int64_t word = 0; word < map.begin / 32; ++word) before += __builtin_popcount(map.taken[word]);
  const float *t = latent + before, *u = latent + map.rank + map.begin - before;
  for (int64_t o = map.begin / kLanes * kLanes; o < map.end; o += kLanes) {
    const int64_t skipped = map.begin - o, left = map.end - o;
    const uint32_t most = left < kLanes ? (1u << left) - 1 : 0xffffu;
    const auto inUse = static_cast<__mmask16>(skipped > 0 ? most >> skipped << skipped : most);
    const auto taken = static_cast<__mmask16>(map.taken[o / 32] >> (o % 32) & inUse);
    const auto rest = static_cast<__mmask16>(~taken & inUse);
    // The second keeps what the first has spread.
    const __m512 first = _mm512_maskz_expandloadu_ps(taken, t);
    __m512 both = _mm512_mask_expandloadu_ps(first, rest, u);
    t += __builtin_popcount(taken);
    u += __builtin_popcount(rest);
    if constexpr (kAdds) both = _mm512_add_ps(both, _mm512_maskz_loadu_ps(inUse, y + o));
    _mm512_mask_storeu_ps(y + o, inUse, both);
  }
}
#else
template <bool kAdds>
HWY_INLINE void gatherOf(const GatherMap& map, const float* latent, float* __restrict y) {
  const int32_t* from = map.from;
  for (int64_t o = map.begin; o < map.end; ++o) y[o] = kAdds ? y[o] + latent[from[o]] : latent[from[o]];
}
#endif

void gather(const GatherMap& map, const float* latent, bool adds, float* y) {
  if (adds) {
    gatherOf<true>(map, latent, y);
  } else {
    gatherOf<false>(map, latent, y);
  }
}

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
