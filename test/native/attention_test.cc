#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "check.h"
#include "cpu/kernels.h"
#include "model/kv_cache.h"

using namespace flrc;
using cpu::Kernels;

namespace {

void forTargets(const std::function<void(const Kernels&)>& body) {
  const Kernels* targets[8];
  const int count = cpu::kernelTargets(targets, 8);
  for (int i = 0; i < count; ++i) body(*targets[i]);
}

ModelConfig shape(int64_t heads, int64_t kvHeads, int64_t headDim) {
  ModelConfig config;
  config.layers = 1;
  config.heads = heads;
  config.kvHeads = kvHeads;
  config.headDim = headDim;
  return config;
}

// Keys and values of some positions, in fp64 and in a cache.
struct Sequence {
  int64_t width;
  std::vector<float> keys, values;
  KvCache cache;

  Sequence(const Kernels& kernels, const ModelConfig& config, Dtype dtype, int64_t positions,
           check::Random& random)
      : width(config.kvWidth()),
        keys(random.floats(positions * width)),
        values(random.floats(positions * width)),
        cache(config, dtype) {
    cache.reserve(0, positions);
    for (int64_t p = 0; p < positions; ++p) {
      kernels.storeKv(cache.view(0), p, keys.data() + p * width, values.data() + p * width);
    }
  }
};

// One head's attention in fp64, and the sum of the values' sizes under the same weights.
void expected(const Sequence& of, int64_t offset, int64_t headDim, int64_t begin, int64_t end, const float* q,
              std::vector<double>& out, std::vector<double>& sizes) {
  std::vector<double> weights;
  double top = -std::numeric_limits<double>::infinity(), total = 0;
  for (int64_t p = begin; p < end; ++p) {
    double score = 0;
    for (int64_t d = 0; d < headDim; ++d) {
      score += static_cast<double>(q[d]) * of.keys[static_cast<size_t>(p * of.width + offset + d)];
    }
    weights.push_back(score / std::sqrt(static_cast<double>(headDim)));
    top = std::max(top, weights.back());
  }
  for (double& weight : weights) total += weight = std::exp(weight - top);
  out.assign(static_cast<size_t>(headDim), 0);
  sizes = out;
  for (int64_t p = begin; p < end; ++p) {
    for (int64_t d = 0; d < headDim; ++d) {
      const double term = weights[static_cast<size_t>(p - begin)] / total *
                          of.values[static_cast<size_t>(p * of.width + offset + d)];
      out[static_cast<size_t>(d)] += term;
      sizes[static_cast<size_t>(d)] += std::abs(term);
    }
  }
}

}  // namespace

TEST("attention: against fp64, for any heads, widths and windows, a head the same with any others") {
  const struct {
    int64_t kvHeads, shared, headDim;
  } shapes[] = {{1, 1, 8}, {3, 3, 64}, {2, 5, 48}, {1, 7, 128}, {2, 4, 6}};
  forTargets([&](const Kernels& kernels) {
    for (const auto& [kvHeads, shared, headDim] : shapes) {
      for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
        check::Random random(static_cast<uint64_t>(headDim));
        const int64_t positions = 75, heads = kvHeads * shared;
        Sequence of(kernels, shape(heads, kvHeads, headDim), dtype, positions, random);
        const std::vector<float> q = random.floats(heads * headDim);
        for (const auto& [begin, end] :
             {std::pair<int64_t, int64_t>{0, 1}, {0, 16}, {0, 75}, {21, 75}, {40, 47}}) {
          std::vector<float> scores(static_cast<size_t>(4 * (end - begin + 2 * cpu::kKeyBlock))),
              out(q.size(), -1.0f);
          for (int64_t h = 0; h < kvHeads; ++h) {
            const int64_t at = h * shared * headDim;
            kernels.attend(of.cache.view(0), h, begin, end, q.data() + at, shared, scores.data(),
                           out.data() + at);
          }
          for (int64_t h = 0; h < heads; ++h) {
            std::vector<double> exact, sizes;
            expected(of, h / shared * headDim, headDim, begin, end, q.data() + h * headDim, exact, sizes);
            std::vector<float> alone(static_cast<size_t>(headDim));
            kernels.attend(of.cache.view(0), h / shared, begin, end, q.data() + h * headDim, 1, scores.data(),
                           alone.data());
            CHECK(std::memcmp(alone.data(), out.data() + h * headDim, alone.size() * sizeof(float)) == 0);
            for (size_t d = 0; d < alone.size(); ++d) {
              // A score's rounding shifts its weight by as much: fp16 keys and values have 2^-11 each, scores
              // of inputs in -1..1 are below sqrt(headDim).
              const double unit = dtype == Dtype::f32 ? 0x1p-22 : 0x1p-11;
              const double tolerance =
                  unit * (2 * std::sqrt(static_cast<double>(headDim)) + 2) * (sizes[d] + 0.01);
              CHECK_NEAR(alone[d], exact[d], tolerance);
            }
          }
        }
      }
    }
  });
}

TEST("attention: what the cache holds comes back, exactly from f32 and to 2^-11 from fp16") {
  forTargets([](const Kernels& kernels) {
    for (const Dtype dtype : {Dtype::f32, Dtype::int8}) {
      const int64_t headDim = 24, begin = 5, end = 41, count = end - begin;
      check::Random random(1);
      Sequence of(kernels, shape(2, 2, headDim), dtype, end, random);
      std::vector<float> keys(static_cast<size_t>(count * headDim)), values(keys.size());
      kernels.widenKv(of.cache.view(0), 1, begin, end, keys.data(), values.data());
      const double unit = dtype == Dtype::f32 ? 0 : 0x1p-11;
      for (int64_t p = 0; p < count; ++p) {
        for (int64_t d = 0; d < headDim; ++d) {
          const auto at = static_cast<size_t>((begin + p) * of.width + headDim + d);
          CHECK_NEAR(keys[static_cast<size_t>(d * count + p)], of.keys[at], unit * std::abs(of.keys[at]));
          CHECK_NEAR(values[static_cast<size_t>(p * headDim + d)], of.values[at],
                     unit * std::abs(of.values[at]));
        }
      }
    }
  });
}

TEST("attention: beyond fp16 its largest value is kept, and NaN stays") {
  forTargets([](const Kernels& kernels) {
    KvCache cache(shape(1, 1, 2), Dtype::bf16);
    cache.reserve(0, 1);
    const float key[] = {1e6f, -INFINITY}, value[] = {NAN, -7e4f};
    kernels.storeKv(cache.view(0), 0, key, value);
    float keys[2], values[2];
    kernels.widenKv(cache.view(0), 0, 0, 1, keys, values);
    CHECK_EQUAL(keys[0], 65504.0f);
    CHECK_EQUAL(keys[1], -65504.0f);
    CHECK(std::isnan(values[0]));
    CHECK_EQUAL(values[1], -65504.0f);
  });
}

TEST("logits: the largest, and sums of exponentials to fp64's precision") {
  forTargets([](const Kernels& kernels) {
    for (const int64_t n : {1, 7, 16, 1000, 1024, 3001}) {
      check::Random random(static_cast<uint64_t>(n));
      std::vector<float> logits = random.floats(n);
      for (float& logit : logits) logit = std::min(29.0f, 20 * logit);
      logits[static_cast<size_t>(n / 2)] = 30;
      if (n > 1100) logits[static_cast<size_t>(n - 1)] = 30;  // an equal, which comes later
      double sum = 0, weighted = 0;
      for (const float logit : logits) {
        const double shifted = static_cast<double>(logit) - 30, power = std::exp(shifted);
        sum += power;
        weighted += power * shifted;
      }
      const cpu::LogitSums sums = kernels.logitSums(logits.data(), n);
      CHECK(sums.finite);
      CHECK_EQUAL(sums.best, n / 2);
      CHECK_NEAR(sums.sum, sum, 1e-14 * static_cast<double>(n) * sum);
      CHECK_NEAR(sums.weighted, weighted, 1e-14 * static_cast<double>(n) * (1 + std::abs(weighted)));
      for (const float bad : {INFINITY, -INFINITY, NAN}) {
        std::vector<float> broken = logits;
        broken.back() = bad;
        CHECK(!kernels.logitSums(broken.data(), n).finite);
      }
    }
  });
}
