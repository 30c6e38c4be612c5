// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_ATTENTION_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_ATTENTION_INL
#undef FLRC_CPU_ATTENTION_INL
#else
#define FLRC_CPU_ATTENTION_INL
#endif

#include "cpu/elementwise-inl.h"
#include "cpu/kv_view.h"
#include "cpu/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

// Query heads that one read of keys and values serves, and vectors of a head that are summed at once.
inline constexpr int kAttendHeads = 4, kAttendVectors = 4;

HWY_INLINE FloatVector loadElements(const float* at) { return hn::LoadU(kFloats, at); }
#if HWY_TARGET == HWY_SSE4
// Without instructions for it, Highway's own conversions lose NaN, and that to fp16 cuts off instead of
// rounding.
HWY_INLINE FloatVector loadElements(const hwy::float16_t* at) {
  const hn::Rebind<uint16_t, FloatTag> halves;
  const hn::Repartition<uint32_t, FloatTag> words;
  const auto bits = hn::PromoteTo(words, hn::LoadU(halves, reinterpret_cast<const uint16_t*>(at)));
  const auto size = hn::And(bits, hn::Set(words, 0x7fffu));
  const auto scaled = hn::Mul(hn::BitCast(kFloats, hn::ShiftLeft<13>(size)), hn::Set(kFloats, 0x1p112f));
  const auto infinite = hn::IfThenElseZero(hn::Gt(size, hn::Set(words, 0x7bffu)), hn::Set(words, 0x7f800000u));
  const auto sign = hn::ShiftLeft<16>(hn::Xor(bits, size));
  return hn::BitCast(kFloats, hn::Or(hn::Or(hn::BitCast(words, scaled), infinite), sign));
}
#else
HWY_INLINE FloatVector loadElements(const hwy::float16_t* at) {
  const hn::Rebind<hwy::float16_t, FloatTag> halves;
  return hn::PromoteTo(kFloats, hn::LoadU(halves, at));
}
#endif

// Blocks of keys that are asked for ahead of their use.
inline constexpr int64_t kBlocksAhead = 2;

template <typename T>
HWY_INLINE void prefetch(const T* elements, int64_t count) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(elements);
  for (int64_t i = 0; i < count * static_cast<int64_t>(sizeof(T)); i += 64) __builtin_prefetch(bytes + i);
}

// scores[h * stride + i] = q[h] . key i of a block, for kHeads heads.
template <int kHeads, typename T>
HWY_INLINE void scoreBlock(const T* keys, int64_t headDim, const float* q, float* scores, int64_t stride) {
  constexpr int kVectors = static_cast<int>(kKeyBlock) / kLanes;
  FLRC_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    FloatVector even[kHeads], odd[kHeads];
    FLRC_UNROLL
    for (int h = 0; h < kHeads; ++h) even[h] = odd[h] = hn::Zero(kFloats);
    // headDim is even.
    for (int64_t d = 0; d < headDim; d += 2) {
      const FloatVector first = loadElements(keys + d * kKeyBlock + v * kLanes);
      const FloatVector second = loadElements(keys + (d + 1) * kKeyBlock + v * kLanes);
      FLRC_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        even[h] = hn::MulAdd(first, hn::Set(kFloats, q[h * headDim + d]), even[h]);
        odd[h] = hn::MulAdd(second, hn::Set(kFloats, q[h * headDim + d + 1]), odd[h]);
      }
    }
    FLRC_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      hn::StoreU(hn::Add(even[h], odd[h]), kFloats, scores + h * stride + v * kLanes);
    }
  }
}

// out[h * headDim + i] = sum over positions of weights[h * stride + position] * values[position * step + i],
// for kHeads heads and the first `count` elements of kVectors vectors.
template <int kHeads, int kVectors, typename T>
HWY_INLINE void sumValues(const T* values, int64_t step, int64_t positions, const float* weights,
                          int64_t stride, float* out, int64_t headDim, int64_t count) {
  FloatVector sum[kHeads][kVectors];
  FLRC_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    FLRC_UNROLL
    for (int v = 0; v < kVectors; ++v) sum[h][v] = hn::Zero(kFloats);
  }
  for (int64_t p = 0; p < positions; ++p, values += step) {
    FloatVector value[kVectors];
    FLRC_UNROLL
    for (int v = 0; v < kVectors; ++v) value[v] = loadElements(values + v * kLanes);
    FLRC_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      const FloatVector weight = hn::Set(kFloats, weights[h * stride + p]);
      FLRC_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[h][v] = hn::MulAdd(value[v], weight, sum[h][v]);
    }
  }
  FLRC_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    FLRC_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int64_t left = count - v * kLanes;
      float* to = out + h * headDim + v * kLanes;
      if (left >= kLanes) {
        hn::StoreU(sum[h][v], kFloats, to);
      } else if (left > 0) {
        storeFirst(sum[h][v], left, to);
      }
    }
  }
}

template <int kHeads, typename T>
HWY_INLINE void attendHeads(const KvView& cache, int64_t kvHead, int64_t begin, int64_t end, const float* q,
                            float* scores, float* out) {
  const int64_t headDim = cache.headDim, keyWidth = cache.kvHeads * headDim * kKeyBlock;
  const int64_t valueWidth = cache.kvHeads * cache.valueDim();
  const int64_t firstBlock = begin / kKeyBlock, blocks = (end + kKeyBlock - 1) / kKeyBlock - firstBlock;
  const int64_t stride = blocks * kKeyBlock, skipped = begin - firstBlock * kKeyBlock;
  const T* keys = static_cast<const T*>(cache.keys) + kvHead * headDim * kKeyBlock;
  const T* values = static_cast<const T*>(cache.values) + begin * valueWidth + kvHead * cache.valueDim();
  // A head's keys and values lie between those of others, in steps that a processor does not foresee.
  for (int64_t b = 0; b < kBlocksAhead; ++b) prefetch(keys + (firstBlock + b) * keyWidth, headDim * kKeyBlock);
  for (int64_t b = 0; b < blocks; ++b) {
    prefetch(keys + (firstBlock + b + kBlocksAhead) * keyWidth, headDim * kKeyBlock);
    for (int64_t p = b * kKeyBlock; p < (b + 1) * kKeyBlock && p < end - begin; ++p) {
      prefetch(values + p * valueWidth, headDim);
    }
    scoreBlock<kHeads>(keys + (firstBlock + b) * keyWidth, headDim, q, scores + b * kKeyBlock, stride);
  }
  const float scale = 1.0f / sqrtf(static_cast<float>(headDim));
  for (int h = 0; h < kHeads; ++h) softmax(scores + h * stride + skipped, end - begin, scale);

  constexpr int64_t kMany = kAttendVectors * kLanes;
  int64_t i = 0;
  for (; i + kMany <= headDim; i += kMany) {
    sumValues<kHeads, kAttendVectors>(values + i, valueWidth, end - begin, scores + skipped, stride, out + i,
                                      headDim, kMany);
  }
  for (; i < headDim; i += kLanes) {
    sumValues<kHeads, 1>(values + i, valueWidth, end - begin, scores + skipped, stride, out + i, headDim,
                         headDim - i);
  }
}

template <typename T>
void attendOf(const KvView& cache, int64_t kvHead, int64_t begin, int64_t end, const float* q, int64_t heads,
              float* scores, float* out) {
  int64_t h = 0;
  for (; h + kAttendHeads <= heads; h += kAttendHeads) {
    attendHeads<kAttendHeads, T>(cache, kvHead, begin, end, q + h * cache.headDim, scores,
                                 out + h * cache.headDim);
  }
  q += h * cache.headDim;
  out += h * cache.headDim;
  switch (heads - h) {
    case 3:
      return attendHeads<3, T>(cache, kvHead, begin, end, q, scores, out);
    case 2:
      return attendHeads<2, T>(cache, kvHead, begin, end, q, scores, out);
    case 1:
      return attendHeads<1, T>(cache, kvHead, begin, end, q, scores, out);
  }
}

void attend(const KvView& cache, int64_t kvHead, int64_t begin, int64_t end, const float* q, int64_t heads,
            float* scores, float* out) {
  if (cache.half) return attendOf<hwy::float16_t>(cache, kvHead, begin, end, q, heads, scores, out);
  attendOf<float>(cache, kvHead, begin, end, q, heads, scores, out);
}

// `count` elements in the cache's type, `step` apart.
HWY_INLINE void storeElements(const float* x, int64_t count, int64_t step, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i * step] = x[i];
}
#if HWY_TARGET == HWY_SSE4
HWY_INLINE void storeElements(const float* x, int64_t count, int64_t step, hwy::float16_t* to) {
  for (int64_t i = 0; i < count; ++i) to[i * step].bits = floatToHalf(x[i]);
}
#else
HWY_INLINE void storeElements(const float* x, int64_t count, int64_t step, hwy::float16_t* to) {
  const hn::Rebind<hwy::float16_t, FloatTag> halves;
  const FloatVector most = hn::Set(kFloats, kLargestHalf);
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t some = count - i < kLanes ? count - i : kLanes;
    const FloatVector value = some == kLanes ? hn::LoadU(kFloats, x + i) : loadFirst(x + i, some);
    // What is beyond fp16 becomes its largest; NaN stays.
    const FloatVector inside = hn::IfThenElse(hn::Lt(hn::Abs(value), most), value, hn::CopySign(most, value));
    hwy::float16_t narrow[kLanes];
    hn::StoreU(hn::DemoteTo(halves, hn::IfThenElse(hn::IsNaN(value), value, inside)), halves, narrow);
    for (int64_t j = 0; j < some; ++j) to[(i + j) * step] = narrow[j];
  }
}
#endif

template <typename T>
void storeKvOf(const KvView& cache, int64_t position, const float* key, const float* value) {
  const int64_t headDim = cache.headDim, valueDim = cache.valueDim();
  T* keys = static_cast<T*>(cache.keys) + position / kKeyBlock * kKeyBlock * cache.kvHeads * headDim;
  T* values = static_cast<T*>(cache.values) + position * cache.kvHeads * valueDim;
  storeElements(key, cache.kvHeads * headDim, kKeyBlock, keys + position % kKeyBlock);
  for (int64_t h = 0; h < cache.kvHeads; ++h) {
    storeElements(value + h * headDim, headDim, 1, values + h * valueDim);
  }
}

void storeKv(const KvView& cache, int64_t position, const float* key, const float* value) {
  if (cache.half) return storeKvOf<hwy::float16_t>(cache, position, key, value);
  storeKvOf<float>(cache, position, key, value);
}

template <typename T>
void widenKvOf(const KvView& cache, int64_t kvHead, int64_t begin, int64_t end, float* keys, float* values) {
  const int64_t headDim = cache.headDim, valueDim = cache.valueDim(), count = end - begin;
  for (int64_t p = begin; p < end;) {
    const int64_t lane = p % kKeyBlock, left = kKeyBlock - lane, some = left < end - p ? left : end - p;
    const T* block =
        static_cast<const T*>(cache.keys) + (p / kKeyBlock * cache.kvHeads + kvHead) * headDim * kKeyBlock;
    for (int64_t d = 0; d < headDim; ++d) {
      float wide[kKeyBlock];
      for (int64_t i = 0; i < kKeyBlock; i += kLanes) {
        hn::StoreU(loadElements(block + d * kKeyBlock + i), kFloats, wide + i);
      }
      for (int64_t i = 0; i < some; ++i) keys[d * count + p - begin + i] = wide[lane + i];
    }
    p += some;
  }
  const T* from = static_cast<const T*>(cache.values) + (begin * cache.kvHeads + kvHead) * valueDim;
  for (int64_t p = 0; p < count; ++p, from += cache.kvHeads * valueDim) {
    for (int64_t i = 0; i < headDim; i += kLanes) {
      const FloatVector value = loadElements(from + i);
      float* to = values + p * headDim + i;
      if (headDim - i >= kLanes) {
        hn::StoreU(value, kFloats, to);
      } else {
        storeFirst(value, headDim - i, to);
      }
    }
  }
}

void widenKv(const KvView& cache, int64_t kvHead, int64_t begin, int64_t end, float* keys, float* values) {
  if (cache.half) return widenKvOf<hwy::float16_t>(cache, kvHead, begin, end, keys, values);
  widenKvOf<float>(cache, kvHead, begin, end, keys, values);
}

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
