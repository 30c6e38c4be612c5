#include "kernels/block.cuh"
#include "kernels/causal_attention.cuh"

// FlashAttention-2's way back, in two kernels that share their source, so that nothing is added up by atomics:
// of queries, which go through the keys they see, and of keys, which go through the queries that see them. Both
// make P = softmax(S) anew from the sums of the way there, and dS = P (dP - dots).

namespace flrc::gpu {
namespace {

constexpr int kThreads = 256;

struct BackwardParams {
  RoundedMatrix q, dOut, k, v;
  Global<const float> logSums, dots;  // [tokens][heads]
  // Of queries: dq. Of keys: dk and dv of each query head, [tokens][heads * headDim].
  Global<float> first, second;
  int tokens, heads, sharing, headDim, window, from;
};

// Rows that come at a time.
template <int kDim>
inline constexpr int kComing = kDim <= 64    ? 64
                               : kDim <= 128 ? 32
                                             : 16;
// Dimensions of dk and dv that a block of keys makes: registers hold no more of both.
template <int kDim>
inline constexpr int kOutDims = kDim <= 128 ? kDim : 128;

template <int kDim, bool kByKeys>
struct Backward {
  static constexpr int kRows = kOwnRows<kDim>, kColumns = kComing<kDim>;
  static constexpr int kOut = kByKeys ? kOutDims<kDim> : kDim;
  using Own = RoundedTile<kDim, kRows>;
  using Coming = RoundedTile<kDim, kColumns>;
  static constexpr size_t kTileBytes = size_t{2} * (Own::kValues + Coming::kValues) * sizeof(uint16_t);
  static constexpr size_t kSharedBytes = kTileBytes + (kByKeys ? 2 * kColumns * sizeof(float) : 0);

  const BackwardParams& p;
  int head, row;   // the block's
  int begin, end;  // of what comes

  // P and dS from S and dP. `ownRow`: the warp's first row; `column`: the first that came.
  FLRC_DEVICE void weigh(int ownRow, int column, const float (&sums)[2], const float (&dots)[2],
                         float (&weights)[kColumns / 8][4], float (&gradient)[kColumns / 8][4]) const {
    const float scale = kLog2E / sqrtf(static_cast<float>(p.headDim));
    const Shared<const float> allSums = sharedMemory<float>(kTileBytes), allDots = allSums + kColumns;
    const int lane = laneIndex();
    FLRC_UNROLL
    for (int j = 0; j < kColumns / 8; ++j) {
      FLRC_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int place = 8 * j + lane % 4 * 2 + i % 2;
        const int own = ownRow + lane / 4 + i / 2 * 8, other = column + place;
        const int query = kByKeys ? other : own, key = kByKeys ? own : other;
        const bool visible = key <= query && query < p.tokens && (p.window == 0 || key > query - p.window);
        const float sum = kByKeys ? static_cast<float>(allSums[place]) : sums[i / 2],
                    dot = kByKeys ? static_cast<float>(allDots[place]) : dots[i / 2];
        float& weight = weights[j][i];
        weight = visible ? exp2f(fusedMultiplyAdd(weight, scale, -sum)) : 0.0f;
        gradient[j][i] = weight * (gradient[j][i] - dot);
      }
    }
  }

  FLRC_DEVICE int64_t placeOfSum(int query) const {
    // Of a query that is none nothing is used.
    const int there = query < p.tokens ? query : p.tokens - 1;
    return static_cast<int64_t>(there) * p.heads + head;
  }

  FLRC_DEVICE void run() const {
    constexpr int kOwn = kOwnThreads<kDim>;
    const Shared<uint16_t> ownFirst = sharedMemory<uint16_t>(0), ownSecond = ownFirst + Own::kValues,
                           first = ownSecond + Own::kValues, second = first + Coming::kValues;
    const int kvHead = head / p.sharing;
    const RoundedMatrix q = headOf(p.q, head, p.headDim), dOut = headOf(p.dOut, head, p.headDim),
                        k = headOf(p.k, kvHead, p.headDim), v = headOf(p.v, kvHead, p.headDim);
    const auto fetchFirst = [&](int column) {
      Coming::template fetch<kOwn>(kByKeys ? q : k, column, end, p.headDim, first);
      if (kByKeys && threadIndex() < 2 * kColumns) {
        const int place = threadIndex() % kColumns;
        const Global<const float> from = threadIndex() < kColumns ? p.logSums : p.dots;
        copyAsync<4>(pointerCast<uint8_t>(sharedMemory<float>(kTileBytes) + threadIndex()),
                     pointerCast<const uint8_t>(from + placeOfSum(column + place)));
      }
      commitCopies();
    };
    const auto fetchSecond = [&](int column) {
      Coming::template fetch<kOwn>(kByKeys ? dOut : v, column, end, p.headDim, second);
      commitCopies();
    };
    Own::template fetch<kOwn>(kByKeys ? k : q, row, p.tokens, p.headDim, ownFirst);
    Own::template fetch<kOwn>(kByKeys ? v : dOut, row, p.tokens, p.headDim, ownSecond);
    fetchSecond(begin);
    fetchFirst(begin);

    const int ownRow = warpIndex() * 16, firstDim = blockZ() * kOut;
    float sums[2] = {}, dots[2] = {};
    FLRC_UNROLL
    for (int half = 0; half < 2 && !kByKeys; ++half) {
      const int64_t place = placeOfSum(row + ownRow + laneIndex() / 4 + 8 * half);
      sums[half] = p.logSums[place];
      dots[half] = p.dots[place];
    }
    float out[kOut / 8][4] = {}, outSecond[kByKeys ? kOut / 8 : 1][4] = {};
    for (int column = begin; column < end; column += kColumns) {
      const bool more = column + kColumns < end;
      float weights[kColumns / 8][4] = {}, gradient[kColumns / 8][4] = {};
      waitCopies<1>();
      syncBlock();
      multiplyRows<kDim, kRows, kColumns>(ownSecond, ownRow, second, gradient);
      waitCopies<0>();
      // All have the first ones, and of queries all are done with the second, which the next ones overwrite.
      syncBlock();
      if (!kByKeys && more) fetchSecond(column + kColumns);
      multiplyRows<kDim, kRows, kColumns>(ownFirst, ownRow, first, weights);
      weigh(row + ownRow, column, sums, dots, weights, gradient);
      if constexpr (kByKeys) {
        multiplySums<kDim, kColumns, kOut>(weights, second, firstDim, outSecond);
        if (more) {
          syncBlock();
          fetchSecond(column + kColumns);
        }
      }
      multiplySums<kDim, kColumns, kOut>(gradient, first, firstDim, out);
      if (more) {
        syncBlock();
        fetchFirst(column + kColumns);
      }
    }

    const float scale = 1.0f / sqrtf(static_cast<float>(p.headDim));
    const int64_t offset = head * p.headDim + firstDim;
    storeSums<kOut>(out, {scale, scale}, row + ownRow, p.tokens, p.headDim - firstDim, p.first + offset,
                    p.q.ld);
    if constexpr (kByKeys) {
      storeSums<kOut>(outSecond, {1.0f, 1.0f}, row + ownRow, p.tokens, p.headDim - firstDim, p.second + offset,
                      p.q.ld);
    }
  }
};

template <int kDim>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kOwnThreads<kDim>, 2) queriesKernel(FLRC_PARAMS(BackwardParams) p) {
  constexpr int kRows = kOwnRows<kDim>;
  // Those with the most keys begin first.
  const int row = p.from + (gridX() - 1 - blockX()) * kRows;
  const int end = row + kRows < p.tokens ? row + kRows : p.tokens;
  Backward<kDim, false>{p, blockY(), row, firstKey(row, p.window, kComing<kDim>), end}.run();
}

template <int kDim>
FLRC_KERNEL void FLRC_KERNEL_BOUNDS(kOwnThreads<kDim>, 2) keysKernel(FLRC_PARAMS(BackwardParams) p) {
  constexpr int kRows = kOwnRows<kDim>;
  const int row = p.from + blockX() * kRows, left = p.tokens - row, seen = kRows - 1 + p.window;
  Backward<kDim, true>{p, blockY(), row, row, row + (p.window > 0 && seen < left ? seen : left)}.run();
}

struct SlopeParams {
  Global<const float> dOut, out;  // [rows][headDim]
  Global<uint16_t> rounded;       // [rows][headDim]
  Global<float> dots;             // [rows]
  int rows, headDim;
};

// dOut in bf16, and its dot products with what it is the gradient of: as it is rounded, for what is subtracted
// from dP must be its mean. A warp has a head of a token.
FLRC_KERNEL void slopesKernel(FLRC_PARAMS(SlopeParams) p) {
  const int64_t row = static_cast<int64_t>(blockX()) * (kThreads / 32) + warpIndex();
  if (row >= p.rows) return;
  const Global<const Float2> slopes = pointerCast<const Float2>(p.dOut + row * p.headDim),
                             outs = pointerCast<const Float2>(p.out + row * p.headDim);
  const Global<uint32_t> to = pointerCast<uint32_t>(p.rounded + row * p.headDim);
  float sum = 0;
  for (int i = laneIndex(); i < p.headDim / 2; i += 32) {
    const Float2 slope = slopes[i], out = outs[i];
    const uint32_t pair = roundHalves(slope.x, slope.y);
    to[i] = pair;
    sum = fusedMultiplyAdd(bitsToFloat(pair << 16), out.x, sum);
    sum = fusedMultiplyAdd(bitsToFloat(pair & 0xffff0000u), out.y, sum);
  }
  sum = warpSum(sum);
  if (laneIndex() == 0) p.dots[row] = sum;
}

struct GatherParams {
  Global<const float> parts;  // [2][tokens][heads * headDim]
  Global<float> dk, dv;       // [tokens][kvHeads * headDim]
  int tokens, kvHeads, sharing, headDim, from, count;
};

// Sums over the query heads of a key head, in their order; a thread has four neighbours.
FLRC_KERNEL void gatherKernel(FLRC_PARAMS(GatherParams) p) {
  const int64_t quads = p.headDim / 4, row = p.kvHeads * quads;
  const int64_t i = static_cast<int64_t>(blockX()) * kThreads + threadIndex();
  if (i >= p.count * row) return;
  const int64_t place = p.from * row + i, kvHead = place / quads, all = p.tokens * row * p.sharing;
  const Global<const Float4> from =
      pointerCast<const Float4>(p.parts) + (blockY() * all + kvHead * p.sharing * quads + place % quads);
  Float4 sum = from[0];
  for (int h = 1; h < p.sharing; ++h) {
    const Float4 part = from[h * quads];
    sum = Float4{sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w};
  }
  pointerCast<Float4>(blockY() == 0 ? p.dk : p.dv)[place] = sum;
}

template <int kDim>
void launchFor(Stream stream, BackwardParams params, const TokenRange& range, Global<float> dk,
               Global<float> dv) {
  LaunchShape shape = shapeOf<kDim>(range, params.heads);
  shape.sharedBytes = Backward<kDim, false>::kSharedBytes;
  launch(stream, shape, queriesKernel<kDim>, params);
  params.first = dk;
  params.second = dv;
  shape.sharedBytes = Backward<kDim, true>::kSharedBytes;
  shape.gridZ = kDim / kOutDims<kDim>;
  launch(stream, shape, keysKernel<kDim>, params);
}

}  // namespace

void launchCausalAttentionBackward(Stream stream, const CausalAttentionBackwardParams& params,
                                   const TokenRange& tokens) {
  const CausalAttentionParams& p = params.forward;
  const int sharing = p.heads / p.kvHeads;
  const int64_t width = static_cast<int64_t>(p.heads) * p.headDim;
  const RoundedSequence rounded = roundSequence(stream, tokens, p);
  const RoundedMatrix dOut{params.rounded, width};
  if (tokens.first == 0) {
    const int rows = p.tokens * p.heads;
    LaunchShape shape;
    shape.gridX = static_cast<unsigned>((rows + kThreads / 32 - 1) / (kThreads / 32));
    shape.threads = kThreads;
    launch(stream, shape, slopesKernel,
           SlopeParams{params.dOut, p.out, params.rounded, params.dots, rows, p.headDim});
  }
  const BackwardParams backward{rounded.q,   dOut,      rounded.k, rounded.v,   p.logSums,
                                params.dots, params.dq, nullptr,   p.tokens,    p.heads,
                                sharing,     p.headDim, p.window,  tokens.first};
  const bool apart = sharing > 1;
  const Global<float> dk = apart ? params.parts : params.dk,
                      dv = apart ? params.parts + p.tokens * width : params.dv;
  if (p.headDim <= 64) {
    launchFor<64>(stream, backward, tokens, dk, dv);
  } else if (p.headDim <= 128) {
    launchFor<128>(stream, backward, tokens, dk, dv);
  } else {
    launchFor<256>(stream, backward, tokens, dk, dv);
  }
  if (!apart) return;
  const int64_t quads = static_cast<int64_t>(tokens.count) * p.kvHeads * (p.headDim / 4);
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>((quads + kThreads - 1) / kThreads);
  shape.gridY = 2;
  shape.threads = kThreads;
  launch(stream, shape, gatherKernel,
         GatherParams{params.parts, params.dk, params.dv, p.tokens, p.kvHeads, sharing, p.headDim, tokens.first,
                      tokens.count});
}

}  // namespace flrc::gpu
