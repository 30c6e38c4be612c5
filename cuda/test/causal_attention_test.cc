// kernels/causal_attention.h against fp64, whole sequences and in ranges.

#include "kernels/causal_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "check.h"
#include "tensor/dtype.h"
#include "test/device.h"
#include "test/sequence_attention.h"

using namespace flrc::gpu;
using test::AttentionShape;
using test::Device;
using test::SequenceAttention;

namespace {

constexpr double kUlp = 0x1p-24;
constexpr double kRounded = 0x1p-8;  // of a factor that is rounded to bf16

// f32 values as [tokens][heads][headDim].
struct View {
  const std::vector<float>& all;
  int heads, headDim;
  double at(int t, int h, int i) const {
    return static_cast<double>(all[static_cast<size_t>((t * heads + h) * headDim + i)]);
  }
};

// As the kernels have it: rounding what they are given is no error of theirs.
struct Rounded {
  std::vector<float> q, k, v, dOut;

  explicit Rounded(const SequenceAttention& of)
      : q(rounded(of.q)), k(rounded(of.k)), v(rounded(of.v)), dOut(rounded(of.dOut)) {}

 private:
  static std::vector<float> rounded(std::vector<float> values) {
    for (float& value : values) value = flrc::bf16ToFloat(flrc::floatToBf16(value));
    return values;
  }
};

// A sum of products and that of their sizes, which errors are relative to.
struct Sum {
  double value = 0, size = 0;
  void add(double term) {
    value += term;
    size += std::abs(term);
  }
};

struct Bounded {
  double value = 0, error = 0;
};

// One head in fp64, with bounds on what weights and slopes rounded to bf16 and f32 sums make of it.
class Head {
 public:
  Head(const AttentionShape& shape, const Rounded& of, int head)
      : shape_(shape),
        q_{of.q, shape.heads, shape.headDim},
        k_{of.k, shape.kvHeads, shape.headDim},
        v_{of.v, shape.kvHeads, shape.headDim},
        dOut_{of.dOut, shape.heads, shape.headDim},
        head_(head),
        kvHead_(head / (shape.heads / shape.kvHeads)),
        scale_(1 / std::sqrt(shape.headDim)) {
    const auto tokens = static_cast<size_t>(shape.tokens);
    weights_.assign(tokens, std::vector<double>(tokens));
    slopes_.assign(tokens, std::vector<Bounded>(tokens));
    for (int t = 0; t < shape.tokens; ++t) softmax(t);
  }

  int begin(int query) const { return shape_.window > 0 ? std::max(0, query + 1 - shape_.window) : 0; }
  Bounded logSum(int query) const { return logSums_[static_cast<size_t>(query)]; }
  Bounded out(int query, int dim) const { return out_[static_cast<size_t>(query * shape_.headDim + dim)]; }
  Bounded dq(int query, int dim) const {
    Bounded sum;
    for (int t = begin(query); t <= query; ++t) add(sum, slope(query, t), k_.at(t, kvHead_, dim) * scale_);
    return sum;
  }
  // Added to, for key heads that queries share.
  void dk(int key, int dim, Bounded& sum) const {
    forQueries(key, [&](int t) { add(sum, slope(t, key), q_.at(t, head_, dim) * scale_); });
  }
  void dv(int key, int dim, Bounded& sum) const {
    forQueries(key, [&](int t) {
      const double weight = weights_[static_cast<size_t>(t)][static_cast<size_t>(key)];
      add(sum, {weight, weight * relative_[static_cast<size_t>(t)]}, dOut_.at(t, head_, dim));
    });
  }

 private:
  double product(double size) const { return (shape_.headDim + 8) * kUlp * size; }
  Bounded slope(int query, int key) const {
    return slopes_[static_cast<size_t>(query)][static_cast<size_t>(key)];
  }
  // Products of one more factor, added up over the tokens.
  void add(Bounded& sum, const Bounded& left, double right) const {
    sum.value += left.value * right;
    sum.error +=
        (left.error + (kRounded + (shape_.tokens + 32) * kUlp) * std::abs(left.value)) * std::abs(right);
  }
  template <typename Body>
  void forQueries(int key, const Body& body) const {
    for (int t = key; t < shape_.tokens && key >= begin(t); ++t) body(t);
  }

  void softmax(int query) {
    const auto at = static_cast<size_t>(query);
    double most = -1e300, error = 0, total = 0;
    for (int t = begin(query); t <= query; ++t) {
      Sum dot;
      for (int i = 0; i < shape_.headDim; ++i) dot.add(q_.at(query, head_, i) * k_.at(t, kvHead_, i) * scale_);
      weights_[at][static_cast<size_t>(t)] = dot.value;
      most = std::max(most, dot.value);
      error = std::max(error, product(dot.size));
    }
    for (int t = begin(query); t <= query; ++t) {
      total += weights_[at][static_cast<size_t>(t)] = std::exp(weights_[at][static_cast<size_t>(t)] - most);
    }
    const double logSum = (most + std::log(total)) / std::log(2);
    const double logError =
        error / std::log(2) + (std::abs(logSum) + std::abs(most) + shape_.tokens + 16) * kUlp;
    logSums_.push_back({logSum, logError});
    // Scores err by `error`, which the weights and their sum both feel.
    relative_.push_back(std::expm1(2 * error + 4 * logError * kUlp + (8 + 4 * std::abs(logSum)) * kUlp +
                                   (shape_.tokens + 16) * kUlp));
    Bounded dots;
    for (double& weight : weights_[at]) weight /= total;
    for (int i = 0; i < shape_.headDim; ++i) {
      Bounded sum;
      for (int t = begin(query); t <= query; ++t) {
        const double weight = weights_[at][static_cast<size_t>(t)];
        add(sum, {weight, weight * relative_[at]}, v_.at(t, kvHead_, i));
      }
      out_.push_back(sum);
      const double slope = dOut_.at(query, head_, i);
      dots.value += slope * sum.value;
      dots.error += std::abs(slope) * (sum.error + (shape_.headDim + 8) * kUlp * std::abs(sum.value));
    }
    for (int t = begin(query); t <= query; ++t) {
      Sum dot;
      for (int i = 0; i < shape_.headDim; ++i) {
        dot.add(dOut_.at(query, head_, i) * v_.at(t, kvHead_, i));
      }
      const double weight = weights_[at][static_cast<size_t>(t)], difference = dot.value - dots.value;
      slopes_[at][static_cast<size_t>(t)] = {
          weight * difference, weight * (relative_[at] * std::abs(difference) + product(dot.size) + dots.error +
                                         4 * kUlp * (std::abs(dot.value) + std::abs(dots.value)))};
    }
  }

  AttentionShape shape_;
  View q_, k_, v_, dOut_;
  int head_, kvHead_;
  double scale_;
  std::vector<std::vector<double>> weights_;  // [queries][keys]
  std::vector<std::vector<Bounded>> slopes_;  // of scores
  std::vector<double> relative_;              // error of a query's weights
  std::vector<Bounded> logSums_, out_;
};

// `apart` as of SequenceAttention.
void checkShape(const AttentionShape& shape, uint64_t seed, float apart = 0) {
  Device device(seed);
  SequenceAttention one(shape, seed, apart);
  one.forward(device, {{0, shape.tokens}});
  one.backward(device, {{0, shape.tokens}});
  device.synchronise();
  const std::vector<float> out = one.out.download(), logSums = one.logSums.download(), dq = one.dq.download(),
                           dk = one.dk.download(), dv = one.dv.download();
  const Rounded rounded(one);
  std::vector<Head> heads;
  for (int h = 0; h < shape.heads; ++h) heads.emplace_back(shape, rounded, h);
  for (int t = 0; t < shape.tokens; ++t) {
    for (int h = 0; h < shape.heads; ++h) {
      const auto row = static_cast<size_t>(t * shape.heads + h);
      const Head& head = heads[static_cast<size_t>(h)];
      CHECK_NEAR(logSums[row], head.logSum(t).value, head.logSum(t).error);
      for (int i = 0; i < shape.headDim; ++i) {
        const size_t at = row * static_cast<size_t>(shape.headDim) + static_cast<size_t>(i);
        CHECK_NEAR(out[at], head.out(t, i).value, head.out(t, i).error);
        const Bounded expected = head.dq(t, i);
        CHECK_NEAR(dq[at], expected.value, expected.error);
      }
    }
    const int sharing = shape.heads / shape.kvHeads;
    for (int h = 0; h < shape.kvHeads; ++h) {
      for (int i = 0; i < shape.headDim; ++i) {
        Bounded key, value;
        for (int g = 0; g < sharing; ++g) {
          heads[static_cast<size_t>(h * sharing + g)].dk(t, i, key);
          heads[static_cast<size_t>(h * sharing + g)].dv(t, i, value);
        }
        const auto at = static_cast<size_t>((t * shape.kvHeads + h) * shape.headDim + i);
        CHECK_NEAR(dk[at], key.value, key.error);
        CHECK_NEAR(dv[at], value.value, value.error);
      }
    }
  }
}

}  // namespace

TEST("causal attention: any length, group of heads, window and head, forward and backward") {
  uint64_t seed = 1;
  for (const AttentionShape& shape :
       {AttentionShape{2, 1, 8, 0, 1}, AttentionShape{2, 2, 16, 0, 2}, AttentionShape{3, 1, 64, 0, 15},
        AttentionShape{4, 2, 40, 0, 16}, AttentionShape{2, 1, 128, 0, 17}, AttentionShape{3, 3, 80, 7, 66},
        AttentionShape{1, 1, 64, 0, 129}, AttentionShape{2, 1, 128, 50, 129}, AttentionShape{1, 1, 256, 0, 70},
        AttentionShape{1, 1, 136, 10, 35}, AttentionShape{2, 1, 24, 70, 300}}) {
    checkShape(shape, ++seed);
  }
}

TEST("causal attention: scores so low that those of no query at all would have too large a weight") {
  checkShape({2, 1, 16, 0, 17}, 1, 30);
}

TEST(
    "causal attention: a sequence in ranges is the whole one bit for bit, and no range writes beyond its "
    "tokens") {
  for (const AttentionShape& shape : {AttentionShape{4, 2, 16, 0, 150}, AttentionShape{2, 1, 136, 40, 100}}) {
    const std::vector<TokenRange> ranges = {{0, 64}, {64, shape.tokens - 64}};
    Device device(5);
    SequenceAttention whole(shape, 5), apart(shape, 5);
    const std::vector<float> poison = apart.out.download();
    whole.forward(device, {{0, shape.tokens}});
    whole.backward(device, {{0, shape.tokens}});
    apart.forward(device, {ranges[0]});
    device.synchronise();
    const auto bytes = [](const std::vector<float>& values, size_t first) {
      return std::string(reinterpret_cast<const char*>(values.data() + first),
                         (values.size() - first) * sizeof(float));
    };
    const auto second = static_cast<size_t>(64 * shape.heads * shape.headDim),
               secondKv = static_cast<size_t>(64 * shape.kvHeads * shape.headDim);
    CHECK(bytes(apart.out.download(), second) == bytes(poison, second));
    apart.forward(device, {ranges[1]});
    apart.backward(device, {ranges[0]});
    device.synchronise();
    const auto unwritten = [&](const std::vector<float>& values, size_t first) {
      return bytes(values, first) == bytes(poison, first + poison.size() - values.size());
    };
    CHECK(unwritten(apart.dq.download(), second));
    CHECK(unwritten(apart.dk.download(), secondKv));
    CHECK(unwritten(apart.dv.download(), secondKv));
    apart.backward(device, {ranges[1]});
    device.synchronise();
    CHECK(apart.out.download() == whole.out.download());
    CHECK(apart.logSums.download() == whole.logSums.download());
    CHECK(apart.dq.download() == whole.dq.download());
    CHECK(apart.dk.download() == whole.dk.download());
    CHECK(apart.dv.download() == whole.dv.download());
  }
}
