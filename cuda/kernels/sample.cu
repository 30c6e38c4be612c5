#include <cmath>

#include "kernels/block.cuh"
#include "kernels/sample.h"
#include "kernels/weights.cuh"

namespace flrc::gpu {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 256;
// More than any count or mass, and less than half of what fits.
constexpr uint64_t kNoLimit = ~0ull >> 2;
constexpr float kMassScale = 1099511627776.0f;  // 2^40

// Floats in their order as whole numbers.
FLRC_DEVICE uint32_t keyOf(float value) {
  const uint32_t bits = floatToBits(value);
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

FLRC_DEVICE uint64_t massOf(float logit, float top) {
  return static_cast<uint64_t>(expf(logit - top) * kMassScale);
}

// core/random.h's draw `index` of a seed, in [0, 1).
FLRC_DEVICE double uniformOf(uint64_t seed, uint64_t index) {
  uint64_t z = seed * 0x9e3779b97f4a7c15ull + index * 0xd1b54a32d192ed03ull + 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1.0p-53;
}

struct Areas {
  Shared<uint64_t> mass;     // [kThreads], the first kBins of them for bins
  Shared<uint64_t> scratch;  // [5][kWarps]
  Shared<uint64_t> found;    // [3]
  Shared<uint32_t> count;    // [kBins]
};

constexpr int kScratch = 5 * kWarps;
constexpr int kFound = 3;
constexpr size_t kSharedBytes = (kThreads + kScratch + kFound) * sizeof(uint64_t) + kBins * sizeof(uint32_t);

FLRC_DEVICE Areas areasOf() {
  const Shared<uint64_t> mass = sharedMemory<uint64_t>(0);
  return {mass, mass + kThreads, mass + (kThreads + kScratch),
          pointerCast<uint32_t>(mass + (kThreads + kScratch + kFound))};
}

// The tokens that are left: those with a key above `key`, and the first `ties` (by id) of those with this key.
struct Kept {
  uint32_t key;
  uint64_t ties;
  uint64_t mass;  // of all of them
};

// Of the bins from the highest on, the first with which there are `count` tokens or their mass is `mass`, or
// else the lowest that is not empty: found[0] is the bin, found[1] and found[2] are the count and the mass
// above it, given those above all bins. By one warp, a lane having eight neighbouring bins.
FLRC_DEVICE void findBin(const Areas& areas, uint64_t count, uint64_t mass, uint64_t countAbove,
                         uint64_t massAbove) {
  constexpr int kLaneBins = kBins / 32;
  const int highest = kBins - 1 - laneIndex() * kLaneBins;
  uint64_t counted = 0, weighed = 0;
  for (int bin = highest; bin > highest - kLaneBins; --bin) {
    counted += areas.count[bin];
    weighed += areas.mass[bin];
  }
  const uint64_t ownCount = counted, ownMass = weighed;
  FLRC_UNROLL
  for (int step = 1; step < 32; step *= 2) {
    const uint64_t beforeCount = shuffle(counted, laneIndex() - step),
                   beforeMass = shuffle(weighed, laneIndex() - step);
    if (laneIndex() >= step) {
      counted += beforeCount;
      weighed += beforeMass;
    }
  }
  const bool reaches = ownCount > 0 && (countAbove + counted >= count || massAbove + weighed >= mass);
  // The first lane that reaches it, or else the last that has any tokens.
  int first = reaches ? laneIndex() : 32, last = ownCount > 0 ? laneIndex() : -1;
  FLRC_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    const int otherFirst = shuffleXor(first, mask), otherLast = shuffleXor(last, mask);
    first = otherFirst < first ? otherFirst : first;
    last = otherLast > last ? otherLast : last;
  }
  if (laneIndex() != (first < 32 ? first : last)) return;
  counted += countAbove - ownCount;
  weighed += massAbove - ownMass;
  for (int bin = highest; bin > highest - kLaneBins; --bin) {
    const uint64_t n = areas.count[bin], m = areas.mass[bin];
    if (n == 0) continue;
    areas.found[0] = static_cast<uint64_t>(bin);
    areas.found[1] = counted;
    areas.found[2] = weighed;
    counted += n;
    weighed += m;
    if (counted >= count || weighed >= mass) return;
  }
}

// Of the tokens `kept`, the likeliest as long as there are fewer than `count` of them and they have less than
// `mass` (in whole units); by radix, eight bits of the key at a time.
FLRC_DEVICE Kept select(const SampleParams& p, Global<const float> logits, float top, const Kept& kept,
                        uint64_t count, uint64_t mass) {
  const Areas areas = areasOf();
  uint32_t prefix = 0;
  uint64_t countAbove = 0, massAbove = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIndex(); i < kBins; i += kThreads) {
      areas.mass[i] = 0;
      areas.count[i] = 0;
    }
    syncBlock();
    for (int i = threadIndex(); i < p.vocab; i += kThreads) {
      const float logit = logits[i];
      const uint32_t key = keyOf(logit);
      if (key < kept.key || (shift < 24 && key >> (shift + 8) != prefix >> (shift + 8))) continue;
      atomicAdd(areas.count + (key >> shift & (kBins - 1)), 1u);
      atomicAdd(areas.mass + (key >> shift & (kBins - 1)), massOf(logit, top));
    }
    syncBlock();
    if (warpIndex() == 0) findBin(areas, count, mass, countAbove, massAbove);
    syncBlock();
    prefix |= static_cast<uint32_t>(static_cast<uint64_t>(areas.found[0])) << shift;
    countAbove = areas.found[1];
    massAbove = areas.found[2];
  }
  // The key is found, and all tokens that have it weigh the same.
  const uint32_t bits = prefix >> 31 != 0 ? prefix & 0x7fffffffu : ~prefix;
  const uint64_t each = massOf(bitsToFloat(bits), top);
  uint64_t ties = countAbove < count ? count - countAbove : 0;
  if (each > 0 && massAbove < mass) {
    const uint64_t enough = (mass - massAbove + each - 1) / each;
    ties = enough < ties ? enough : ties;
  }
  const uint64_t most =
      prefix == kept.key ? kept.ties : areas.count[static_cast<int64_t>(prefix & (kBins - 1))];
  ties = ties < most ? ties : most;
  if (ties == 0) ties = 1;
  return {prefix, ties, massAbove + ties * each};
}

FLRC_KERNEL void sampleKernel(FLRC_PARAMS(SampleParams) p) {
  dependentTrigger();
  dependentWait();
  const int64_t row = blockX();
  const Global<const float> logits = p.logits + row * p.vocab;
  const SamplingRow sampling = p.sampling[row];
  const Areas areas = areasOf();

  // The likeliest, of equals the first: by key, then by id from behind.
  uint64_t best = 0;
  float finite = 0;
  for (int i = threadIndex(); i < p.vocab; i += kThreads) {
    const float logit = logits[i];
    finite += logit * 0.0f;
    const uint64_t candidate = static_cast<uint64_t>(keyOf(logit)) << 32 | ~static_cast<uint32_t>(i);
    best = candidate > best ? candidate : best;
  }
  best = blockReduce(best, areas.scratch, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
  finite = blockSum(finite, pointerCast<float>(areas.scratch + kWarps));
  const int token = static_cast<int>(~static_cast<uint32_t>(best));
  const float top = logits[token];
  if (!(finite == 0.0f)) {
    if (threadIndex() == 0) p.sampled[row] = SampledRow{-1, 0, 0};
    return;
  }

  double total = 0, weighted = 0;
  uint64_t mass = 0;
  for (int i = threadIndex(); i < p.vocab; i += kThreads) {
    const float shifted = logits[i] - top, weight = expf(shifted);
    total += static_cast<double>(weight);
    weighted += static_cast<double>(weight) * static_cast<double>(shifted);
    mass += massOf(logits[i], top);
  }
  total = blockSum(total, pointerCast<double>(areas.scratch + 2 * kWarps));
  weighted = blockSum(weighted, pointerCast<double>(areas.scratch + 3 * kWarps));
  mass = blockSum(mass, areas.scratch + 4 * kWarps);

  int chosen = token;
  if (sampling.temperature > 0) {
    Kept kept{0, 0xffffffffull, mass};
    if (sampling.topK > 0) {
      kept = select(p, logits, top, kept, static_cast<uint64_t>(sampling.topK), kNoLimit);
    }
    if (sampling.topP < 1) {
      // The other selection's bins are still being read.
      if (sampling.topK > 0) syncBlock();
      const double goal = static_cast<double>(sampling.topP) * static_cast<double>(kept.mass);
      kept = select(p, logits, top, kept, kNoLimit, static_cast<uint64_t>(goal));
    }
    const float least = sampling.minP > 0 ? top + logf(sampling.minP) : -HUGE_VALF;

    // Each thread has a stretch of ids: first how many ties and how much weight it has, then whose turn it is.
    const int stretch = (p.vocab + kThreads - 1) / kThreads, first = threadIndex() * stretch;
    const int end = first + stretch < p.vocab ? first + stretch : p.vocab;
    uint64_t ties = 0;
    for (int i = first; i < end; ++i) ties += keyOf(logits[i]) == kept.key;
    areas.mass[threadIndex()] = ties;
    syncBlock();
    uint64_t tiesBefore = 0;
    for (int t = 0; t < threadIndex(); ++t) tiesBefore += areas.mass[t];
    syncBlock();
    // The weight of token i, given how many ties came before it.
    const auto weightOf = [&](int i, uint64_t& seen) -> uint64_t {
      const float logit = logits[i];
      const uint32_t key = keyOf(logit);
      if (key < kept.key || (key == kept.key && seen++ >= kept.ties)) return 0;
      if (logit < least && i != token) return 0;
      return massOf((logit - top) / sampling.temperature, 0.0f);
    };
    uint64_t weight = 0, seen = tiesBefore;
    for (int i = first; i < end; ++i) weight += weightOf(i, seen);
    areas.mass[threadIndex()] = weight;
    syncBlock();
    uint64_t before = 0, all = 0;
    for (int t = 0; t < kThreads; ++t) {
      if (t < threadIndex()) before += areas.mass[t];
      all += areas.mass[t];
    }
    const auto drawn =
        static_cast<uint64_t>(uniformOf(sampling.seed, sampling.draw) * static_cast<double>(all));
    // The product may round up.
    const uint64_t target = drawn < all ? drawn : all - 1;
    if (before <= target && target < before + weight) {
      seen = tiesBefore;
      for (int i = first; i < end; ++i) {
        const uint64_t own = weightOf(i, seen);
        if (target < before + own) {
          areas.found[0] = static_cast<uint64_t>(i);
          break;
        }
        before += own;
      }
    }
    syncBlock();
    chosen = static_cast<int>(static_cast<uint64_t>(areas.found[0]));
  }

  if (threadIndex() > 0) return;
  const double logTotal = log(total);
  p.sampled[row] = SampledRow{chosen, static_cast<float>(static_cast<double>(logits[chosen] - top) - logTotal),
                              static_cast<float>(logTotal - weighted / total)};
  SamplingRow next = sampling;
  ++next.draw;
  p.sampling[row] = next;
  if (p.tokens == nullptr) return;
  p.tokens[row] = chosen;
  CacheRow cache = p.cacheRows[row];
  ++cache.position;
  p.cacheRows[row] = cache;
}

}  // namespace

void launchSample(Stream stream, const SampleParams& params, int rows, bool dependent) {
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>(rows);
  shape.threads = kThreads;
  shape.sharedBytes = kSharedBytes;
  shape.dependent = dependent;
  launch(stream, shape, sampleKernel, params);
}

}  // namespace flrc::gpu
