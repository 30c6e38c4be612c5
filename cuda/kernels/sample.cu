#include <cmath>

#include "kernels/logits.cuh"
#include "kernels/warp.cuh"

namespace flrc::gpu {
namespace {

using namespace logits;

static_assert(kSelectBins == kThreads);
// More than any count or mass, and less than half of what fits.
constexpr uint64_t kNoLimit = ~0ull >> 2;
constexpr float kMassScale = 1099511627776.0f;  // 2^40
// Masses are added up as two halves, which a chunk's sums of fit 32 bits.
constexpr int kHalf = 20;
static_assert((uint64_t{kLogitsChunk} << kHalf) < (1ull << 32));

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
  Shared<uint64_t> mass;     // [kSelectBins]
  Shared<uint64_t> scratch;  // [4][kWarps]
  Shared<uint64_t> found;    // [3]
  Shared<uint32_t> count;    // [kSelectBins], and what a chunk's masses come to, in halves
  Shared<uint32_t> low, high;
};

constexpr int kScratch = 4 * kWarps;
constexpr int kFound = 3;
constexpr size_t kSharedBytes =
    (kSelectBins + kScratch + kFound) * sizeof(uint64_t) + 3 * kSelectBins * sizeof(uint32_t);

FLRC_DEVICE Areas areasOf() {
  const Shared<uint64_t> mass = sharedMemory<uint64_t>(0);
  const Shared<uint32_t> count = pointerCast<uint32_t>(mass + (kSelectBins + kScratch + kFound));
  return {mass,  mass + kSelectBins,  mass + (kSelectBins + kScratch),
          count, count + kSelectBins, count + 2 * kSelectBins};
}

// The sum of a warp's values up to each lane's own.
FLRC_DEVICE uint64_t warpScan(uint64_t value) {
  FLRC_UNROLL
  for (int step = 1; step < 32; step *= 2) {
    const uint64_t before = shuffle(value, laneIndex() - step);
    if (laneIndex() >= step) value += before;
  }
  return value;
}

// The sum of what threads before this one have.
FLRC_DEVICE uint64_t sumBefore(uint64_t value, Shared<uint64_t> scratch) {
  uint64_t sum = warpScan(value);
  if (laneIndex() == 31) scratch[warpIndex()] = sum;
  syncBlock();
  sum -= value;
  for (int w = 0; w < warpIndex(); ++w) sum += scratch[w];
  return sum;
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
  constexpr int kLaneBins = kSelectBins / 32;
  const int highest = kSelectBins - 1 - laneIndex() * kLaneBins;
  uint64_t counted = 0, weighed = 0;
  for (int bin = highest; bin > highest - kLaneBins; --bin) {
    counted += areas.count[bin];
    weighed += areas.mass[bin];
  }
  const uint64_t ownCount = counted, ownMass = weighed;
  counted = warpScan(counted);
  weighed = warpScan(weighed);
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
// `mass` (in whole units); by radix, eight bits of the key at a time, from round `round` on.
FLRC_DEVICE Kept select(const SampleParams& p, const Own& own, float top, const Kept& kept, uint64_t count,
                        uint64_t mass, int round) {
  const Areas areas = areasOf();
  const int bin = threadIndex();
  uint32_t prefix = 0;
  uint64_t countAbove = 0, massAbove = 0;
  for (int shift = 24; shift >= 0; shift -= 8, ++round) {
    areas.count[bin] = 0;
    areas.low[bin] = 0;
    areas.high[bin] = 0;
    syncBlock();
    FLRC_UNROLL
    for (int i = 0; i < kOwn; ++i) {
      const uint32_t key = keyOf(own.logit[i]);
      if (i >= own.count || key < kept.key) continue;
      if (shift < 24 && key >> (shift + 8) != prefix >> (shift + 8)) continue;
      const int64_t at = key >> shift & (kSelectBins - 1);
      const uint64_t weight = massOf(own.logit[i], top);
      atomicAdd(areas.count + at, 1u);
      if (weight == 0) continue;
      atomicAdd(areas.low + at, static_cast<uint32_t>(weight) & ((1u << kHalf) - 1));
      atomicAdd(areas.high + at, static_cast<uint32_t>(weight >> kHalf));
    }
    syncBlock();
    const int64_t at = int64_t{round} * kSelectBins + bin;
    if (areas.count[bin] > 0) {
      atomicAdd(p.counts + at, static_cast<uint32_t>(areas.count[bin]));
      atomicAdd(p.masses + at, (static_cast<uint64_t>(areas.high[bin]) << kHalf) + areas.low[bin]);
    }
    gridBarrier(p.counter);
    areas.count[bin] = p.counts[at];
    areas.mass[bin] = p.masses[at];
    syncBlock();
    if (warpIndex() == 0) findBin(areas, count, mass, countAbove, massAbove);
    syncBlock();
    prefix |= static_cast<uint32_t>(static_cast<uint64_t>(areas.found[0])) << shift;
    countAbove = areas.found[1];
    massAbove = areas.found[2];
  }
  // The key is found, and all tokens that have it weigh the same.
  const uint64_t each = massOf(floatOf(prefix), top);
  uint64_t ties = countAbove < count ? count - countAbove : 0;
  if (each > 0 && massAbove < mass) {
    const uint64_t enough = (mass - massAbove + each - 1) / each;
    ties = enough < ties ? enough : ties;
  }
  const uint64_t most =
      prefix == kept.key ? kept.ties : areas.count[static_cast<int64_t>(prefix & (kSelectBins - 1))];
  ties = ties < most ? ties : most;
  if (ties == 0) ties = 1;
  return {prefix, ties, massAbove + ties * each};
}

// The sum over the blocks before this one of what each has put to `values`, and over all blocks.
struct Sums {
  uint64_t before, all;
};
FLRC_DEVICE Sums sumsOf(Global<const uint64_t> values, Shared<uint64_t> scratch) {
  Sums sums{0, 0};
  for (int b = threadIndex(); b < gridX(); b += kThreads) {
    const uint64_t value = values[b];
    sums.all += value;
    if (b < blockX()) sums.before += value;
  }
  sums.before = blockSum(sums.before, scratch);
  sums.all = blockSum(sums.all, scratch + kWarps);
  return sums;
}

FLRC_KERNEL void sampleKernel(FLRC_PARAMS(SampleParams) p) {
  const SamplingRow& sampling = p.sampling;
  const Likeliest likeliest = p.likeliest[0];
  if (likeliest.sampled.token < 0) {
    if (blockX() == 0 && threadIndex() == 0) p.sampled[0] = likeliest.sampled;
    return;
  }
  const Areas areas = areasOf();
  const Own own = ownOf(p.logits, p.vocab);
  const float top = likeliest.top;

  Kept kept{0, kNoLimit, 0};
  if (sampling.topK > 0) {
    kept = select(p, own, top, kept, static_cast<uint64_t>(sampling.topK), kNoLimit, 0);
  }
  if (sampling.topP < 1) {
    if (sampling.topK > 0) {
      // The other selection's bins are still being read.
      syncBlock();
    } else {
      // The mass of all tokens.
      uint64_t mass = 0;
      FLRC_UNROLL
      for (int i = 0; i < kOwn; ++i) mass += i < own.count ? massOf(own.logit[i], top) : 0;
      mass = blockSum(mass, areas.scratch);
      if (threadIndex() == 0) p.ties[blockX()] = mass;
      gridBarrier(p.counter);
      kept.mass = sumsOf(p.ties, areas.scratch + kWarps).all;
    }
    const double goal = static_cast<double>(sampling.topP) * static_cast<double>(kept.mass);
    kept = select(p, own, top, kept, kNoLimit, static_cast<uint64_t>(goal), kSelectRounds / 2);
  }
  const float least = sampling.minP > 0 ? top + logf(sampling.minP) : -HUGE_VALF;

  // How many ties come before a thread's logits, and then how much weight.
  uint64_t ties = 0;
  FLRC_UNROLL
  for (int i = 0; i < kOwn; ++i) ties += i < own.count && keyOf(own.logit[i]) == kept.key;
  uint64_t tiesBefore = sumBefore(ties, areas.scratch);
  if (threadIndex() == kThreads - 1) p.ties[blockX()] = tiesBefore + ties;
  gridBarrier(p.counter);
  tiesBefore += sumsOf(p.ties, areas.scratch + kWarps).before;

  uint64_t weights[kOwn], weight = 0, seen = tiesBefore;
  FLRC_UNROLL
  for (int i = 0; i < kOwn; ++i) {
    const uint32_t key = keyOf(own.logit[i]);
    bool counts = i < own.count && key >= kept.key;
    if (counts && key == kept.key) counts = seen++ < kept.ties;
    if (counts && own.logit[i] < least) counts = own.first + i == likeliest.sampled.token;
    weights[i] = counts ? massOf((own.logit[i] - top) / sampling.temperature, 0.0f) : 0;
    weight += weights[i];
  }
  uint64_t before = sumBefore(weight, areas.scratch);
  if (threadIndex() == kThreads - 1) p.weights[blockX()] = before + weight;
  gridBarrier(p.counter);
  const Sums sums = sumsOf(p.weights, areas.scratch + kWarps);
  before += sums.before;

  // Nobody reads the bins any more.
  for (int i = blockX() * kThreads + threadIndex(); i < kSelectRounds * kSelectBins; i += gridX() * kThreads) {
    p.counts[i] = 0;
    p.masses[i] = 0;
  }

  const auto drawn =
      static_cast<uint64_t>(uniformOf(sampling.seed, sampling.draw) * static_cast<double>(sums.all));
  // The product may round up.
  const uint64_t target = drawn < sums.all ? drawn : sums.all - 1;
  if (target < before || target >= before + weight) return;
  int chosen = 0;
  float logit = 0;
  bool found = false;
  FLRC_UNROLL
  for (int i = 0; i < kOwn; ++i) {
    if (!found && target < before + weights[i]) {
      chosen = own.first + i;
      logit = own.logit[i];
      found = true;
    }
    before += weights[i];
  }
  const double logprob = static_cast<double>(logit - top) - likeliest.logTotal;
  p.sampled[0] = SampledRow{chosen, static_cast<float>(logprob), likeliest.sampled.entropy};
}

}  // namespace

void launchSample(Stream stream, const SampleParams& params) {
  LaunchShape shape = shapeOf(params.vocab, 1, kSharedBytes);
  shape.cooperative = true;
  launch(stream, shape, sampleKernel, params);
}

}  // namespace flrc::gpu
