#include <algorithm>
#include <cmath>

#include "kernels/logits.cuh"
#include "kernels/random.cuh"
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

struct Areas {
  Shared<uint64_t> mass;     // [kSelectBins]
  Shared<uint64_t> scratch;  // [2][kWarps]
  Shared<uint64_t> found;    // [3]
  Shared<uint32_t> count;    // [kSelectBins], and what a chunk's masses come to, in halves
  Shared<uint32_t> low, high;
};

constexpr int kScratch = 2 * kWarps;
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

// Two areas that what a block adds up takes in turn, so that no barrier is needed between one sum and the next.
class Scratch {
 public:
  explicit FLRC_DEVICE Scratch(Shared<uint64_t> areas) : areas_(areas) {}
  FLRC_DEVICE Shared<uint64_t> next() {
    turn_ = kWarps - turn_;
    return areas_ + turn_;
  }

 private:
  Shared<uint64_t> areas_;
  int turn_ = 0;
};

// Sums over what comes before, and over all.
struct Sums {
  uint64_t before, all;
};

// Of the threads' values.
FLRC_DEVICE Sums scan(uint64_t value, Shared<uint64_t> scratch) {
  const uint64_t upTo = warpScan(value);
  if (laneIndex() == 31) scratch[warpIndex()] = upTo;
  syncBlock();
  Sums sums{upTo - value, 0};
  for (int w = 0; w < kWarps; ++w) {
    const uint64_t warp = scratch[w];
    if (w < warpIndex()) sums.before += warp;
    sums.all += warp;
  }
  return sums;
}

// What the blocks of a row share, and a block's part of the row: neighbouring chunks, of which the first one's
// logits stay in registers.
struct Share {
  Global<const float> logits;
  int vocab, begin, end;
  Global<uint64_t> masses, ties, weights;
  Global<uint32_t> counts, counter;
  Own own;
  float top;

  FLRC_DEVICE Share(const SampleParams& p, float largest)
      : logits(p.rows[blockY()].logits), vocab(p.vocab), counter(p.counters + blockY()), top(largest) {
    const int chunks = (vocab + kLogitsChunk - 1) / kLogitsChunk;
    begin = chunks * blockX() / gridX();
    end = chunks * (blockX() + 1) / gridX();
    const int64_t bins = int64_t{blockY()} * kSelectRounds * kSelectBins, values = int64_t{blockY()} * chunks;
    masses = p.masses + bins;
    counts = p.counts + bins;
    ties = p.ties + values;
    weights = p.weights + values;
    own = ownOf(logits, vocab, begin);
  }

  // Calls `each` with this thread's logits of every chunk, in their order.
  template <typename Each>
  FLRC_DEVICE void forEach(const Each& each) const {
    Own now = own;
    for (int chunk = begin;;) {
      each(now);
      if (++chunk >= end) return;
      now = ownOf(logits, vocab, chunk);
    }
  }
};

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
FLRC_DEVICE Kept select(const Share& row, const Kept& kept, uint64_t count, uint64_t mass, int round) {
  const Areas areas = areasOf();
  const int bin = threadIndex();
  uint32_t prefix = 0;
  uint64_t countAbove = 0, massAbove = 0;
  for (int shift = 24; shift >= 0; shift -= 8, ++round) {
    uint32_t counted = 0;
    uint64_t weighed = 0;
    row.forEach([&](const Own& own) {
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
        const uint64_t weight = massOf(own.logit[i], row.top);
        atomicAdd(areas.count + at, 1u);
        if (weight == 0) continue;
        atomicAdd(areas.low + at, static_cast<uint32_t>(weight) & ((1u << kHalf) - 1));
        atomicAdd(areas.high + at, static_cast<uint32_t>(weight >> kHalf));
      }
      syncBlock();
      counted += areas.count[bin];
      weighed += (static_cast<uint64_t>(areas.high[bin]) << kHalf) + areas.low[bin];
    });
    const int64_t at = int64_t{round} * kSelectBins + bin;
    if (counted > 0) {
      atomicAdd(row.counts + at, counted);
      atomicAdd(row.masses + at, weighed);
    }
    gridBarrier(row.counter);
    areas.count[bin] = row.counts[at];
    areas.mass[bin] = row.masses[at];
    syncBlock();
    if (warpIndex() == 0) findBin(areas, count, mass, countAbove, massAbove);
    syncBlock();
    prefix |= static_cast<uint32_t>(static_cast<uint64_t>(areas.found[0])) << shift;
    countAbove = areas.found[1];
    massAbove = areas.found[2];
  }
  // The key is found, and all tokens that have it weigh the same.
  const uint64_t each = massOf(floatOf(prefix), row.top);
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

// Sums of a value of each block of the row, which goes through `values`.
FLRC_DEVICE Sums sumsOf(uint64_t value, const Share& row, Global<uint64_t> values, Scratch& scratch) {
  if (threadIndex() == 0) values[blockX()] = value;
  firstsBarrier(row.counter);
  Sums sums{0, 0};
  for (int b = threadIndex(); b < gridX(); b += kThreads) {
    const uint64_t other = values[b];
    sums.all += other;
    if (b < blockX()) sums.before += other;
  }
  sums.before = blockSum(sums.before, scratch.next());
  sums.all = blockSum(sums.all, scratch.next());
  return sums;
}

// The weights of a thread's tokens of a chunk, 0 for those that no filter leaves. `ties` come before the chunk,
// and are then those before the next one.
struct Weights {
  uint64_t of[kOwn];
  uint64_t sum = 0;

  FLRC_DEVICE Weights(const Own& own, const Share& row, const Kept& kept, const Likeliest& likeliest,
                      const SamplingRow& sampling, uint64_t& ties, Scratch& scratch) {
    uint64_t seen = 0;
    if (kept.key > 0) {
      const Sums before = scan(tiesOf(own, kept), scratch.next());
      seen = ties + before.before;
      ties += before.all;
    }
    const float least = sampling.minP > 0 ? row.top + logf(sampling.minP) : -HUGE_VALF;
    FLRC_UNROLL
    for (int i = 0; i < kOwn; ++i) {
      const uint32_t key = keyOf(own.logit[i]);
      bool counts = i < own.count && key >= kept.key;
      if (counts && key == kept.key) counts = seen++ < kept.ties;
      if (counts && own.logit[i] < least) counts = own.first + i == likeliest.sampled.token;
      of[i] = counts ? massOf((own.logit[i] - row.top) / sampling.temperature, 0.0f) : 0;
      sum += of[i];
    }
  }

  // A thread's tokens that have the last key.
  static FLRC_DEVICE uint64_t tiesOf(const Own& own, const Kept& kept) {
    uint64_t ties = 0;
    FLRC_UNROLL
    for (int i = 0; i < kOwn; ++i) ties += i < own.count && keyOf(own.logit[i]) == kept.key;
    return ties;
  }
};

// What the filters that go by rank leave. The bins are all 0 again when the next barrier has been passed.
FLRC_DEVICE Kept filter(const Share& row, const SamplingRow& sampling, Scratch& scratch) {
  Kept kept{0, kNoLimit, 0};
  if (sampling.topK > 0) {
    kept = select(row, kept, static_cast<uint64_t>(sampling.topK), kNoLimit, 0);
  }
  if (sampling.topP < 1) {
    if (sampling.topK > 0) {
      // The other selection's bins are still being read.
      syncBlock();
    } else {
      // The mass of all tokens.
      uint64_t mass = 0;
      row.forEach([&](const Own& own) {
        FLRC_UNROLL
        for (int i = 0; i < kOwn; ++i) mass += i < own.count ? massOf(own.logit[i], row.top) : 0;
      });
      kept.mass = sumsOf(blockSum(mass, scratch.next()), row, row.weights, scratch).all;
    }
    const double goal = static_cast<double>(sampling.topP) * static_cast<double>(kept.mass);
    kept = select(row, kept, kNoLimit, static_cast<uint64_t>(goal), kSelectRounds / 2);
  }
  return kept;
}

FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kThreads, kSampleBlocks) sampleKernel(FLRC_PARAMS(SampleParams) p) {
  const SampleParams::Row& to = p.rows[blockY()];
  const SamplingRow& sampling = to.sampling;
  const Likeliest likeliest = to.likeliest[0];
  if (likeliest.sampled.token < 0) {
    if (blockX() == 0 && threadIndex() == 0) to.sampled[0] = likeliest.sampled;
    return;
  }
  Scratch scratch(areasOf().scratch);
  const Share row(p, likeliest.top);
  const Kept kept = filter(row, sampling, scratch);

  // How many ties come before the block's tokens, and then how much weight.
  uint64_t tiesBefore = 0;
  if (kept.key > 0) {
    uint64_t ties = 0;
    row.forEach([&](const Own& own) { ties += Weights::tiesOf(own, kept); });
    tiesBefore = sumsOf(blockSum(ties, scratch.next()), row, row.ties, scratch).before;
  }
  uint64_t weight = 0, tiesSeen = tiesBefore;
  row.forEach(
      [&](const Own& own) { weight += Weights(own, row, kept, likeliest, sampling, tiesSeen, scratch).sum; });
  weight = blockSum(weight, scratch.next());
  const Sums sums = sumsOf(weight, row, row.weights, scratch);

  // Nobody reads the bins any more.
  if (kept.key > 0) {
    for (int i = blockX() * kThreads + threadIndex(); i < kSelectRounds * kSelectBins;
         i += gridX() * kThreads) {
      row.counts[i] = 0;
      row.masses[i] = 0;
    }
  }

  const auto drawn =
      static_cast<uint64_t>(uniformOf(sampling.seed, sampling.draw) * static_cast<double>(sums.all));
  // The product may round up.
  const uint64_t target = drawn < sums.all ? drawn : sums.all - 1;
  if (target < sums.before || target >= sums.before + weight) return;
  uint64_t chunkBefore = sums.before;
  row.forEach([&](const Own& own) {
    const Weights weights(own, row, kept, likeliest, sampling, tiesBefore, scratch);
    const Sums threads = scan(weights.sum, scratch.next());
    uint64_t before = chunkBefore + threads.before;
    chunkBefore += threads.all;
    if (target < before || target >= before + weights.sum) return;
    int chosen = 0;
    float logit = 0;
    bool found = false;
    FLRC_UNROLL
    for (int i = 0; i < kOwn; ++i) {
      if (!found && target < before + weights.of[i]) {
        chosen = own.first + i;
        logit = own.logit[i];
        found = true;
      }
      before += weights.of[i];
    }
    const double logprob = static_cast<double>(logit - row.top) - likeliest.logTotal;
    to.sampled[0] = SampledRow{chosen, static_cast<float>(logprob), likeliest.sampled.entropy};
  });
}

}  // namespace

void launchSample(Stream stream, const SampleParams& params, int rows, int multiprocessors) {
  const int most = multiprocessors * kSampleBlocks / rows, chunks = logitsChunks(params.vocab);
  LaunchShape shape = shapeOf(std::clamp(most, 1, chunks), rows, kSharedBytes);
  shape.cooperative = true;
  launch(stream, shape, sampleKernel, params);
}

}  // namespace flrc::gpu
