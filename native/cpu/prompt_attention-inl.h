// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_PROMPT_ATTENTION_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_PROMPT_ATTENTION_INL
#undef FLRC_CPU_PROMPT_ATTENTION_INL
#else
#define FLRC_CPU_PROMPT_ATTENTION_INL
#endif

#include "cpu/attention-inl.h"
#include "cpu/prompt-inl.h"
#include "cpu/prompt_attention.h"

// Attention of a prompt by AVX512-BF16: both of its products are those of cpu/prompt-inl.h, with keys, and then
// values, for weights. Scores are turned into weights piece by piece (Milakov and Gimelshein 2018, arXiv
// 1805.02867; Dao et al. 2022, arXiv 2205.14135), so that those of a long text need no more room than of a
// short one.
HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX3

static_assert(kAttentionKeys % kPanel == 0 && kPanel % kKeyBlock == 0 && kKeyBlock == kLanes);
// A panel's positions are a block of words of the weights.
static_assert(kPanel == 2 * kPromptPairs && kPromptVectors == 2);

// Keys of positions [begin, end) of a head, begin being a panel's first. What is behind the end is not written.
HWY_INLINE void pairKeys(const KvView& cache, int64_t kvHead, int64_t begin, int64_t end, uint32_t* out) {
  const hn::Repartition<uint32_t, FloatTag> words;
  const int64_t headDim = cache.headDim;
  for (int64_t p = begin; p < end; p += kKeyBlock) {
    const auto* block = static_cast<const hwy::float16_t*>(cache.keys) +
                        (p / kKeyBlock * cache.kvHeads + kvHead) * headDim * kKeyBlock;
    const int64_t panel = (p - begin) / kPanel, place = (p - begin) % kPanel;
    uint32_t* to = out + panel * (headDim / 2) * kPanel + place;
    for (int64_t d = 0; d < headDim; d += 2, to += kPanel) {
      const FloatVector first = loadElements(block + d * kKeyBlock);
      const FloatVector second = loadElements(block + (d + 1) * kKeyBlock);
      hn::StoreU(roundedPairs(first, second), words, to);
    }
  }
}

// Values of positions [begin, end) of a head, with zeros for those up to a panel's end behind them.
HWY_INLINE void pairValues(const KvView& cache, int64_t kvHead, int64_t begin, int64_t end, uint32_t* out) {
  const hn::Repartition<uint32_t, FloatTag> words;
  const int64_t valueDim = cache.valueDim(), step = cache.kvHeads * valueDim;
  const auto* from = static_cast<const hwy::float16_t*>(cache.values) + begin * step + kvHead * valueDim;
  const int64_t count = end - begin, all = (count + kPanel - 1) / kPanel * kPanel;
  for (int64_t p = 0; p < all; p += 2, from += 2 * step, out += kPanel) {
    for (int64_t i = 0; i < valueDim; i += kLanes) {
      const FloatVector first = p < count ? loadElements(from + i) : hn::Zero(kFloats);
      const FloatVector second = p + 1 < count ? loadElements(from + step + i) : hn::Zero(kFloats);
      uint32_t* to = out + i / kPanel * (kAttentionKeys / 2) * kPanel + i % kPanel;
      hn::StoreU(roundedPairs(first, second), words, to);
    }
  }
}

// 2^x to 3e-6 of it, which bf16 does not tell from 2^x; NaN for NaN.
HWY_INLINE FloatVector twoTo(FloatVector x) {
  constexpr float kLowest = -200;  // 0 in f32 from there down
  const FloatVector power = hn::Max(hn::Set(kFloats, kLowest), x);
  const FloatVector rest = hn::Sub(power, hn::Round(power));
  FloatVector sum = hn::Set(kFloats, 0.009570101f);
  for (const float coefficient : {0.055917863f, 0.24024744f, 0.6931218f, 0.9999993f}) {
    sum = hn::MulAdd(sum, rest, hn::Set(kFloats, coefficient));
  }
  auto raw = sum.raw;
  asm("vscalefps %1, %0, %0" : "+v"(raw) : "v"(hn::Round(power).raw));
  return FloatVector{raw};
}

// What a row sees of the positions at hand: [from, to).
struct Seen {
  int64_t from, to;

  HWY_INLINE bool whole(int64_t first, int64_t count) const { return from <= first && first + count <= to; }
  // `other` where the lanes of x, which begin at `first`, are not seen.
  HWY_INLINE FloatVector of(FloatVector x, int64_t first, FloatVector other) const {
    const auto below = [first](int64_t end) HWY_ATTR {
      return hn::FirstN(kFloats, static_cast<size_t>(end < first ? 0 : end - first));
    };
    return hn::IfThenElse(hn::AndNot(below(from), below(to)), x, other);
  }
};

// Calls body(i, seen) for the vectors of positions i of some panels, where seen(x, other) is x of what is seen.
template <typename Body>
HWY_INLINE void eachPanel(int64_t panels, const Seen& seen, const Body& body) {
  for (int64_t first = 0; first < panels * kPanel; first += kPanel) {
    if (seen.whole(first, kPanel)) {
      body(first, [](FloatVector x, int64_t, FloatVector) HWY_ATTR { return x; });
    } else {
      body(first, [&](FloatVector x, int64_t i, FloatVector other) HWY_ATTR { return seen.of(x, i, other); });
    }
  }
}

// Scores of `panels` panels of positions become weights relative to the row's largest score so far, to blocks
// of words that lie `stride` apart. `scale` is of scores to powers of two. Returns what the row has been given
// before is worth from now on.
HWY_INLINE float weighScores(const float* scores, int64_t panels, const Seen& seen, float scale, int64_t stride,
                             uint32_t* weights, float& most, float& total) {
  const FloatVector lowest = hn::Set(kFloats, -HUGE_VALF), none = hn::Zero(kFloats);
  FloatVector low = hn::Set(kFloats, most), high = low;
  eachPanel(panels, seen, [&](int64_t i, const auto& seenOf) HWY_ATTR {
    low = hn::Max(low, seenOf(hn::LoadU(kFloats, scores + i), i, lowest));
    high = hn::Max(high, seenOf(hn::LoadU(kFloats, scores + i + kLanes), i + kLanes, lowest));
  });
  const float largest = hn::GetLane(hn::MaxOfLanes(kFloats, hn::Max(low, high)));
  const FloatVector factor = hn::Set(kFloats, scale), offset = hn::Set(kFloats, -largest * scale);
  low = high = none;
  eachPanel(panels, seen, [&](int64_t i, const auto& seenOf) HWY_ATTR {
    const auto weight = [&](int64_t at) HWY_ATTR {
      return seenOf(twoTo(hn::MulAdd(hn::LoadU(kFloats, scores + at), factor, offset)), at, none);
    };
    const FloatVector first = weight(i), second = weight(i + kLanes);
    low = hn::Add(low, first);
    high = hn::Add(high, second);
    hn::StoreU(roundedHalves(first, second), hn::Repartition<uint32_t, FloatTag>(),
               weights + i / kPanel * stride);
  });
  // Exactly 1 where nothing is seen: a row does not depend on how far its neighbours see.
  const float left = most == largest ? 1 : hn::GetLane(twoTo(hn::Set(kFloats, (most - largest) * scale)));
  total = total * left + sumOf(hn::Add(low, high));
  most = largest;
  return left;
}

HWY_INLINE void scaleBy(float factor, int64_t n, float* x) {
  const FloatVector by = hn::Set(kFloats, factor);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) hn::StoreU(hn::Mul(hn::LoadU(kFloats, x + i), by), kFloats, x + i);
  for (; i < n; ++i) x[i] *= factor;
}

void attendPrompt(const KvView& cache, int64_t kvHead, const PromptQueries& of, PromptAttention& work) {
  const int64_t headDim = cache.headDim, pairs = work.queries.pairs;
  constexpr float kLog2OfE = 1.44269504f;
  const float scale = kLog2OfE / sqrtf(static_cast<float>(headDim));
  float* const scores = work.scores.data();
  uint32_t* const weights = work.weights.data();
  const int64_t begin = firstVisible(of.first, of.window) / kAttentionKeys * kAttentionKeys;
  for (int64_t chunk = begin; chunk < of.end(); chunk += kAttentionKeys) {
    const int64_t end = chunk + kAttentionKeys < of.end() ? chunk + kAttentionKeys : of.end();
    pairKeys(cache, kvHead, chunk, end, work.keys.data());
    pairValues(cache, kvHead, chunk, end, work.values.data());
    for (int64_t tile = 0; tile < work.queries.tiles(); ++tile) {
      const int64_t columns = work.queries.width(tile), row = tile * kPromptTile;
      int64_t last = 0;
      for (int64_t c = 0; c < columns; ++c) last = of.position(row + c) > last ? of.position(row + c) : last;
      if (last < chunk) continue;
      const int64_t used = last + 1 < end ? last + 1 - chunk : end - chunk;
      const int64_t panels = (used + kPanel - 1) / kPanel;
      const auto times = kPromptTiles[static_cast<size_t>(columns - 1)];
      for (int64_t panel = 0; panel < panels; ++panel) {
        const auto* keys = reinterpret_cast<const uint8_t*>(work.keys.data() + panel * pairs * kPanel);
        times({keys, kPanel * 4, pairs}, work.queries.tile(tile),
              {scores + panel * kPanel, kAttentionKeys, kPanel, true});
      }
      for (int64_t c = 0; c < columns; ++c) {
        const int64_t position = of.position(row + c);
        const Seen seen{firstVisible(position, of.window) - chunk, position + 1 - chunk};
        const float left =
            weighScores(scores + c * kAttentionKeys, panels, seen, scale, columns * kPromptPairs,
                        weights + c * kPromptPairs, work.most.data()[row + c], work.total.data()[row + c]);
        if (left != 1) scaleBy(left, headDim, work.sums.data() + (row + c) * headDim);
      }
      for (int64_t d = 0; d < headDim; d += kPanel) {
        const auto* values =
            reinterpret_cast<const uint8_t*>(work.values.data() + d / kPanel * (kAttentionKeys / 2) * kPanel);
        const int64_t outputs = headDim - d < kPanel ? headDim - d : kPanel;
        times({values, kPanel * 4, panels * kPromptPairs}, weights,
              {work.sums.data() + row * headDim + d, headDim, outputs, false});
      }
    }
  }
}

#endif

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
