#include <algorithm>
#include <stdexcept>

#include "kernels/attention_chunk.cuh"
#include "kernels/step.h"
#include "kernels/step_products.cuh"

namespace flrc::gpu {
namespace step {
namespace {

static_assert(kThreads == kNormThreads && kThreads == attention::kThreads, "a block does all of it");

// Jobs come in chunks, some of which are on their way while one is worked at.
constexpr int kChunkJobs = 8, kJobChunks = 4;

constexpr int kPhasesBytes = kWarps * kRecords * static_cast<int>(sizeof(uint64_t));
constexpr int kJobsBytes = kJobChunks * kChunkJobs * static_cast<int>(sizeof(StepJob));
constexpr int kJobPhasesBytes = 64;
static_assert(kJobPhasesBytes >= 2 * kJobChunks * static_cast<int>(sizeof(uint64_t)));
constexpr int kScratchBytes = 2 * kWarps * static_cast<int>(sizeof(float));
constexpr int kPartsBytes = kGathered * static_cast<int>(sizeof(GatheredPart));

FLRC_ANYWHERE constexpr int residualBytes(int hidden) {
  return inputValues(hidden) * static_cast<int>(sizeof(float));
}
constexpr int mergeBytes(int headDim) { return (kAttentionGroup + kStepGroups) * (headDim * 4 + 8); }
// Of `made`, and of `places`.
FLRC_ANYWHERE constexpr int gatheredBytes(int gathered) { return (gathered + 15) / 16 * 64; }

FLRC_DEVICE Areas areasOf(const StepParams& p) {
  size_t at = static_cast<size_t>(kWarps) * static_cast<size_t>(p.ringBytes) + kPhasesBytes;
  const auto take = [&](int bytes) {
    const size_t begin = at;
    at += static_cast<size_t>(bytes);
    return begin;
  };
  Areas areas;
  areas.jobs = sharedMemory<StepJob>(take(kJobsBytes));
  areas.jobPhases = sharedMemory<uint64_t>(take(kJobPhasesBytes));
  areas.residual = sharedMemory<float>(take(residualBytes(p.hidden)));
  areas.scratch = sharedMemory<float>(take(kScratchBytes));
  for (Gathered& gathered : areas.gathered) {
    gathered.made = sharedMemory<float>(take(gatheredBytes(p.gathered)));
    gathered.places = sharedMemory<int>(take(gatheredBytes(p.gathered)));
    gathered.parts = sharedMemory<GatheredPart>(take(kPartsBytes));
  }
  areas.work = at;
  areas.x = sharedMemory<Word4>(take(p.inputWords * static_cast<int>(sizeof(Word4))));
  areas.partial = sharedMemory<float>(at);
  return areas;
}

// The block's list of jobs.
class Jobs {
 public:
  // Waits for nothing that depends on another launch. A barrier before next() is the caller's.
  FLRC_DEVICE Jobs(const StepParams& p, const Areas& areas)
      : areas_(areas),
        from_(p.jobs + p.firstJobs[blockX()]),
        count_(p.firstJobs[blockX() + 1] - p.firstJobs[blockX()]) {
    if (threadIndex() != 0) return;
    for (int c = 0; c < kJobChunks; ++c) {
      phaseInit(areas_.jobPhases + c, 1);
      phaseInit(areas_.jobPhases + (kJobChunks + c), kWarps);
    }
    for (int c = 0; c < kJobChunks - 1; ++c) fetch(c);
  }

  FLRC_DEVICE bool more() const { return at_ < count_; }

  FLRC_DEVICE StepJob next() {
    const int chunk = at_ / kChunkJobs, place = chunk % kJobChunks;
    if (at_ % kChunkJobs == 0) {
      if (at_ > 0) leave(chunk - 1);
      if (threadIndex() == 0) fetch(chunk + kJobChunks - 1);
      phaseWait(areas_.jobPhases + place, parityOf(chunk));
    }
    const int index = place * kChunkJobs + at_++ % kChunkJobs;
    return areas_.jobs[index];
  }

 private:
  static FLRC_DEVICE uint32_t parityOf(int chunk) { return static_cast<uint32_t>(chunk / kJobChunks & 1); }

  // All have read a chunk, where another is to come to its place.
  FLRC_DEVICE void leave(int chunk) {
    const Shared<uint64_t> left = areas_.jobPhases + (kJobChunks + chunk % kJobChunks);
    syncWarp();
    if (laneIndex() == 0) phaseArrive(left);
    if (threadIndex() == 0) phaseWait(left, parityOf(chunk));
  }

  FLRC_DEVICE void fetch(int chunk) {
    const int first = chunk * kChunkJobs, after = count_ - first,
              count = after < kChunkJobs ? after : kChunkJobs;
    if (count <= 0) return;
    const int place = chunk % kJobChunks;
    const auto bytes = static_cast<uint32_t>(count) * static_cast<uint32_t>(sizeof(StepJob));
    phaseExpect(areas_.jobPhases + place, bytes);
    bulkCopy(pointerCast<uint8_t>(areas_.jobs + place * kChunkJobs), pointerCast<const uint8_t>(from_ + first),
             bytes, areas_.jobPhases + place);
  }

  const Areas& areas_;
  const Global<const StepJob> from_;
  const int count_;
  int at_ = 0;
};

// Has what outputs of a product are gathered by on its way.
FLRC_DEVICE void expectPart(const Gathered& gathered, const StepJob& job) {
  if (threadIndex() == 0) gathered.parts[job.which] = GatheredPart{job.places, job.from, job.pivots, job.begin};
  for (int i = threadIndex(); job.places != nullptr && i < gathered.count; i += kThreads) {
    copyAsync<4>(pointerCast<uint8_t>(gathered.places + (job.which * gathered.count + i)),
                 pointerCast<const uint8_t>(job.places + (gathered.begin + i)));
  }
  commitCopies();
}

FLRC_DEVICE void gatherOutputs(const Gathered& gathered, const StepJob& job, uint32_t base) {
  waitCopies<0>();
  syncBlock();
  // What each product gives to each output, in the place of where it was: those that have to come are on their
  // way together.
  const Shared<float> given = pointerCast<float>(gathered.places);
  for (int i = threadIndex(); i < job.products * gathered.count; i += kThreads) {
    const int which = i / gathered.count, output = gathered.begin + i % gathered.count;
    const GatheredPart part = gathered.parts[which];
    const int at = part.places != nullptr ? gathered.places[i] : output;
    float value[1];
    if (at < part.pivotCount) {
      receiveTagged<1>(part.pivots + at, base + static_cast<uint32_t>(job.wants), value);
    } else {
      value[0] = gathered.made[which * gathered.count + (at - part.pivotCount - part.firstLine)];
    }
    given[i] = value[0];
  }
  syncBlock();
  for (int i = threadIndex(); i < gathered.count; i += kThreads) {
    const int output = gathered.begin + i;
    const auto sumOf = [&](int first, int end, Global<const float> bias) {
      float total = bias != nullptr ? bias[output] : 0.0f;
      for (int which = first; which < end; ++which) total += given[which * gathered.count + i];
      return total;
    };
    float value = sumOf(0, job.gates, job.bias);
    if (job.gated != 0) value = value / (1.0f + expf(-value)) * sumOf(job.gates, job.products, job.gatedBias);
    sendTagged(job.y + output, value, base + static_cast<uint32_t>(job.sends.y));
  }
}

// Heads of this step's token.
struct TaggedHeads {
  const StepAttention& a;
  uint32_t tag;

  FLRC_DEVICE void await() const {}
  FLRC_DEVICE HeadPart query(int64_t head, const HeadShape& shape) const {
    return load(a.q + head * shape.headDim, shape);
  }
  FLRC_DEVICE HeadPart key(int64_t head, const HeadShape& shape) const {
    return load(a.k + head * shape.headDim, shape);
  }
  FLRC_DEVICE HeadPart value(int64_t head, const HeadShape& shape) const {
    return load(a.v + head * shape.headDim, shape);
  }

 private:
  FLRC_DEVICE HeadPart load(Global<const uint64_t> head, const HeadShape& shape) const {
    HeadPart part;
    FLRC_UNROLL
    for (int i = 0; i < HeadPart::kPairs; ++i) {
      const int pair = laneIndex() + 32 * i;
      if (pair >= shape.count()) continue;
      const int low = shape.low(pair), apart = shape.high(pair) - low;
      float both[2][2];
      receiveTagged<2, 2>(head + 2 * low, 2 * apart, tag, both);
      part.low[i] = {both[0][0], both[0][1]};
      part.high[i] = {both[1][0], both[1][1]};
    }
    return part;
  }
};

template <int kWidth>
FLRC_DEVICE void attend(const StepAttention& a, const StepJob& job, const CacheRow& row, size_t work,
                        uint32_t base) {
  AttentionParams p = a.of;
  p.window = job.width;
  p.heads.layer = job.which;
  p.heads.queryNorm = job.norm;
  p.heads.keyNorm = job.keyNorm;
  const int used = attention::chunksUpTo(row.position, p.window), groups = p.heads.kvHeads * p.parts;
  const int width = kWidth == attention::kAnyWidth ? p.heads.headDim : kWidth;
  const attention::Areas areas = attention::areasOf(width, work);
  // What lies there has been read.
  syncBlock();
  for (int task = blockX(); task < used * groups; task += gridX()) {
    const int chunk = task / groups;
    const attention::Heads heads = attention::headsOf(p, 0, task % groups);
    attention::attendChunk<kWidth>(p, TaggedHeads{a, base + static_cast<uint32_t>(job.wants)}, row,
                                   attention::spanOf(row.position, p.window, chunk), heads, areas);
    syncBlock();
    for (int i = threadIndex(); i < heads.count * width; i += kThreads) {
      const float sum = areas.sums[i];
      const Float2 scale = areas.scales[i / width];
      if (used == 1) {
        sendTagged(a.out + (heads.first * width + i), sum / scale.y, base + static_cast<uint32_t>(job.sends.y));
        continue;
      }
      const int64_t entry = (heads.first + i / width) * a.chunks + chunk;
      const uint32_t tag = base + static_cast<uint32_t>(job.sends.t);
      sendTagged(a.sums + (entry * width + i % width), sum, tag);
      if (i % width == 0) {
        sendTagged(a.scales + 2 * entry, scale.x, tag);
        sendTagged(a.scales + (2 * entry + 1), scale.y, tag);
      }
    }
  }
}

// Heads by turns of the blocks. Chunks are merged group by group, and then the groups, as launchAttention does.
template <int kWidth>
FLRC_DEVICE void mergeChunks(const StepAttention& a, const StepJob& job, const CacheRow& row, size_t work,
                             uint32_t base) {
  const AttentionParams& p = a.of;
  const int used = attention::chunksUpTo(row.position, job.width);
  if (used == 1) return;
  const int width = kWidth == attention::kAnyWidth ? p.heads.headDim : kWidth;
  const int groups = (used + kAttentionGroup - 1) / kAttentionGroup;
  const uint32_t tag = base + static_cast<uint32_t>(job.wants);
  const Shared<Float2> scales = sharedMemory<Float2>(work), groupScales = scales + kAttentionGroup;
  const Shared<float> sums = pointerCast<float>(groupScales + kStepGroups),
                      groupSums = sums + kAttentionGroup * width;
  // The thread's sums over `count` entries, each with their scale.
  const auto merged = [&](Shared<const Float2> ofScales, Shared<const float> ofSums, int count,
                          const auto& body) {
    for (int i = threadIndex(); i < width; i += kThreads) {
      float total = 0;
      const Float2 scale = attention::merge(
          count, [&](int part) -> Float2 { return ofScales[part]; },
          [&](int part, float factor) { total = fusedMultiplyAdd(factor, ofSums[part * width + i], total); });
      body(i, total, scale);
    }
  };
  for (int head = blockX(); head < p.heads.heads; head += gridX()) {
    const auto send = [&](int i, float total, const Float2& scale) {
      sendTagged(a.out + (static_cast<int64_t>(head) * width + i), total / scale.y,
                 base + static_cast<uint32_t>(job.sends.y));
    };
    for (int group = 0; group < groups; ++group) {
      const int first = group * kAttentionGroup, after = used - first;
      const int count = after < kAttentionGroup ? after : kAttentionGroup;
      const int64_t entry = static_cast<int64_t>(head) * a.chunks + first;
      syncBlock();
      for (int quad = threadIndex(); quad < count * width / 4; quad += kThreads) {
        float value[4];
        receiveTagged<4>(a.sums + (entry * width + quad * 4), tag, value);
        pointerCast<Float4>(sums)[quad] = Float4{value[0], value[1], value[2], value[3]};
      }
      if (threadIndex() < count) {
        float value[2];
        receiveTagged<2>(a.scales + 2 * (entry + threadIndex()), tag, value);
        scales[threadIndex()] = Float2{value[0], value[1]};
      }
      syncBlock();
      merged(scales, sums, count, [&](int i, float total, const Float2& scale) {
        if (groups == 1) return send(i, total, scale);
        groupSums[group * width + i] = total;
        if (i == 0) groupScales[group] = scale;
      });
    }
    if (groups == 1) continue;
    syncBlock();
    merged(groupScales, groupSums, groups, send);
  }
}

template <int kWidth>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kThreads, 1) stepKernel(FLRC_PARAMS(StepParams) p) {
  const Areas areas = areasOf(p);
  Ring ring(p, sharedMemory<uint8_t>(static_cast<size_t>(warpIndex()) * static_cast<size_t>(p.ringBytes)),
            sharedMemory<uint64_t>(static_cast<size_t>(kWarps) * static_cast<size_t>(p.ringBytes)) +
                warpIndex() * kRecords);
  Jobs jobs(p, areas);
  syncBlock();
  dependentWait();

  const uint32_t base = readFresh(p.epochs + blockX());
  const CacheRow row = p.attention.of.heads.rows[0];
  int loaded = -1, norms = 0, gathers = 0;
  Gathered gathered;
  while (jobs.more()) {
    const StepJob job = jobs.next();
    switch (job.kind) {
      case StepKind::product: {
        if (job.input != loaded && (job.begin < job.end || job.source == StepSource::normed)) {
          const Shared<float> scratch =
              areas.scratch + (job.source == StepSource::normed ? norms++ % 2 * kWarps : 0);
          if (job.unitWords == 0) {
            placeInput(p, areas, job, base + static_cast<uint32_t>(job.wants), scratch);
            // No barrier of the job's lines keeps the next one's input from what slower warps still write.
            if (job.begin == job.end) syncBlock();
          }
          loaded = job.input;
        }
        const bool keeps = job.which >= 0;
        if (keeps) expectPart(gathered, job);
        multiplyJob(p, areas, job, base, ring,
                    keeps ? gathered.made + job.which * gathered.count : Shared<float>(nullptr));
        ring.refill();
        break;
      }
      case StepKind::expect:
        gathered = gathers++ % 2 == 0 ? areas.gathered[0] : areas.gathered[1];
        gathered.begin = job.begin;
        gathered.count = job.end - job.begin;
        break;
      case StepKind::gather:
        gatherOutputs(gathered, job, base);
        break;
      case StepKind::attend:
        attend<kWidth>(p.attention, job, row, areas.work, base);
        break;
      case StepKind::merge:
        mergeChunks<kWidth>(p.attention, job, row, areas.work, base);
        // What lies there, and what attention has left, has been read.
        syncBlock();
        break;
    }
  }
  if (threadIndex() == 0) p.epochs[blockX()] = base + static_cast<uint32_t>(p.exchanges);
}

// Of shared memory behind the rings.
int fixedBytes(int inputWords, int hidden, int headDim, int gathered) {
  const bool known = headDim == 64 || headDim == 128;
  const int attended = static_cast<int>(attention::sharedBytes(headDim, known));
  const int work =
      std::max({inputWords * static_cast<int>(sizeof(Word4)) + kPartials * static_cast<int>(sizeof(float)),
                attended, mergeBytes(headDim)});
  return kPhasesBytes + kJobsBytes + kJobPhasesBytes + residualBytes(hidden) + kScratchBytes +
         2 * (2 * gatheredBytes(gathered) + kPartsBytes) + work;
}

int ringBytes(int inputWords, int hidden, int headDim, int gathered, int sharedBytes) {
  constexpr int kLeast = 2 * recordBytes(kTileLines, kRecordStrips, 0);
  static_assert(kLeast >= kRecordBytes);
  const int bytes = (sharedBytes - fixedBytes(inputWords, hidden, headDim, gathered)) / kWarps / 128 * 128;
  return bytes < kLeast ? 0 : std::min(bytes, kRecords * kRecordBytes);
}

}  // namespace
}  // namespace step

// Of 32 values: two fragments of four lanes each, and int4's zeros.
constexpr int kGroupWords = 8, kGroupZeros = 4;

int stepInputWords(int64_t width) { return step::inputValues(width) / kUnit * kGroupWords; }

int stepUnitWords(Dtype dtype, int64_t width) {
  if (!hasScale(dtype)) return 0;
  const auto groups = static_cast<int>(stripsOf(dtype, width)) * stripWeights(dtype) / kUnit;
  return groups * (kGroupWords + (hasZero(dtype) ? kGroupZeros : 0));
}

bool stepFits(int inputWords, int hidden, int headDim, int gathered, const StepLaunch& how) {
  return step::ringBytes(inputWords, hidden, headDim, gathered, how.sharedBytes) > 0;
}

void launchStep(Stream stream, const StepParams& given, int inputWords, const StepLaunch& how) {
  StepParams params = given;
  params.inputWords = inputWords;
  params.ringBytes =
      step::ringBytes(inputWords, params.hidden, params.headDim, params.gathered, how.sharedBytes);
  if (params.ringBytes == 0) throw std::invalid_argument("too little shared memory for a step");
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>(how.blocks);
  shape.threads = step::kThreads;
  shape.sharedBytes =
      static_cast<size_t>(step::kWarps * params.ringBytes +
                          step::fixedBytes(inputWords, params.hidden, params.headDim, params.gathered));
  shape.fitted = true;
  shape.cooperative = true;
  shape.dependent = how.dependent;
  switch (params.headDim) {
    case 64:
      return launch(stream, shape, step::stepKernel<64>, params);
    case 128:
      return launch(stream, shape, step::stepKernel<128>, params);
    default:
      launch(stream, shape, step::stepKernel<attention::kAnyWidth>, params);
  }
}

}  // namespace flrc::gpu
