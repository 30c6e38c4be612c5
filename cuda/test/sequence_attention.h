#pragma once

#include <vector>

#include "check.h"
#include "kernels/causal_attention.h"
#include "test/device.h"

namespace test {

struct AttentionShape {
  int heads, kvHeads, headDim, window, tokens;

  size_t queries() const { return static_cast<size_t>(tokens * heads * headDim); }
  size_t keys() const { return static_cast<size_t>(tokens * kvHeads * headDim); }
};

// Attention of a random sequence to itself and its way back, with the memory of both. `apart`: of all queries
// from all keys, in the first dimension.
struct SequenceAttention {
  SequenceAttention(const AttentionShape& of, uint64_t seed, float apart = 0)
      : shape(of),
        random(seed),
        q(moved(random.floats(static_cast<int64_t>(of.queries())), of.headDim, apart)),
        k(moved(random.floats(static_cast<int64_t>(of.keys())), of.headDim, -apart)),
        v(random.floats(static_cast<int64_t>(of.keys()))),
        dOut(random.floats(static_cast<int64_t>(of.queries()))) {}

  void forward(Device& device, const std::vector<flrc::gpu::TokenRange>& ranges) {
    for (const auto& range : ranges) launchCausalAttention(device.stream(), params(), range);
  }
  void backward(Device& device, const std::vector<flrc::gpu::TokenRange>& ranges) {
    for (const auto& range : ranges) {
      launchCausalAttentionBackward(
          device.stream(),
          {params(), slopes.read(), dq.global(), dk.global(), dv.global(), roundedSlopes.global(),
           dots.global(), shape.heads > shape.kvHeads ? parts.global() : nullptr},
          range);
    }
  }

  AttentionShape shape;
  check::Random random;
  std::vector<float> q, k, v, dOut;
  Array<float> out{shape.queries()}, logSums{static_cast<size_t>(shape.tokens * shape.heads)},
      dq{shape.queries()}, dk{shape.keys()}, dv{shape.keys()};

 private:
  static std::vector<float> moved(std::vector<float> heads, int headDim, float by) {
    for (size_t i = 0; i < heads.size(); i += static_cast<size_t>(headDim)) heads[i] += by;
    return heads;
  }

  flrc::gpu::CausalAttentionParams params() {
    return {queries.read(), keys.read(),  values.read(), shape.tokens,     shape.heads,     shape.kvHeads,
            shape.headDim,  shape.window, out.global(),  logSums.global(), rounded.global()};
  }

  Array<float> queries{q}, keys{k}, values{v}, slopes{dOut}, dots{logSums.download().size()},
      parts{static_cast<size_t>(
          flrc::gpu::attentionParts(shape.tokens, shape.heads, shape.kvHeads, shape.headDim) + 1)};
  Array<uint16_t> rounded{static_cast<size_t>(
      flrc::gpu::attentionRounded(shape.tokens, shape.heads, shape.kvHeads, shape.headDim))},
      roundedSlopes{shape.queries()};
};

}  // namespace test
