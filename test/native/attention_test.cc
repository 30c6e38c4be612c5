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

namespace {

// What the rounding of queries, keys, weights and values to bf16, and of a half cache's keys and values to fp16
// before that, may change of one head's attention: a shift of all scores by at most s changes weights by e^2s
// at most.
double roundingOf(const Sequence& of, int64_t offset, int64_t headDim, int64_t begin, int64_t end,
                  const float* q) {
  double most = 0;
  for (int64_t p = begin; p < end; ++p) {
    double terms = 0;
    for (int64_t d = 0; d < headDim; ++d) {
      terms += std::abs(static_cast<double>(q[d]) * of.keys[static_cast<size_t>(p * of.width + offset + d)]);
    }
    most = std::max(most, terms / std::sqrt(static_cast<double>(headDim)));
  }
  constexpr double kBf16 = 0x1p-9, kFp16 = 0x1p-11, kF32 = 0x1p-18;
  return std::expm1(2 * most * (2 * kBf16 + kFp16)) + 2 * kBf16 + kFp16 + kF32;
}

// Queries of a prompt [count][heads][headDim] to one key head, as DecodePass gives them to the kernel.
std::vector<float> attended(const Kernels& kernels, const cpu::KvView& cache, int64_t kvHead,
                            const cpu::PromptQueries& of, const float* q) {
  const int64_t headDim = cache.headDim, width = of.heads * headDim;
  cpu::PromptAttention work;
  cpu::resize(work, of.rows(), headDim);
  for (int64_t row = 0; row < of.rows(); ++row) {
    cpu::setPromptColumn(kernels, q + of.place(row, width, headDim), headDim, row, work.queries);
  }
  kernels.attendPrompt(cache, kvHead, of, work);
  std::vector<float> out(static_cast<size_t>(of.rows() * headDim));
  for (int64_t row = 0; row < of.rows(); ++row) {
    for (int64_t d = 0; d < headDim; ++d) {
      out[static_cast<size_t>(row % of.count * width + row / of.count * headDim + d)] =
          work.sums[static_cast<size_t>(row * headDim + d)] / work.total[static_cast<size_t>(row)];
    }
  }
  return out;
}

}  // namespace

TEST("attention: of a prompt in bf16, to its rounding of fp64's, a query the same with any others") {
  const struct {
    int64_t kvHeads, shared, headDim, first, count, window;
  } cases[] = {{1, 1, 8, 0, 1, 0},      {3, 3, 64, 0, 42, 0},     {2, 5, 48, 250, 17, 0},
               {1, 7, 128, 500, 30, 0}, {2, 4, 6, 0, 40, 7},      {1, 3, 64, 300, 90, 100},
               {1, 2, 24, 255, 2, 0},   {2, 1, 80, 511, 70, 256}, {1, 1, 64, 900, 5, 1}};
  forTargets([&](const Kernels& kernels) {
    if (kernels.attendPrompt == nullptr) return;
    for (const auto& [kvHeads, shared, headDim, first, count, window] : cases) {
      check::Random random(static_cast<uint64_t>(headDim + first));
      const int64_t heads = kvHeads * shared, width = shared * headDim;
      Sequence of(kernels, shape(heads, kvHeads, headDim), Dtype::bf16, first + count, random);
      const std::vector<float> q = random.floats(count * width);
      const int64_t kvHead = kvHeads - 1;
      const cpu::PromptQueries all{first, count, shared, window};
      const std::vector<float> out = attended(kernels, of.cache.view(0), kvHead, all, q.data());
      for (int64_t i = 0; i < count; ++i) {
        const float *own = q.data() + i * width, *got = out.data() + i * width;
        const auto alone = attended(kernels, of.cache.view(0), kvHead, {first + i, 1, shared, window}, own);
        CHECK(std::memcmp(alone.data(), got, alone.size() * sizeof(float)) == 0);
        const int64_t end = first + i + 1, begin = window > 0 ? std::max<int64_t>(0, end - window) : 0;
        for (int64_t h = 0; h < shared; ++h) {
          std::vector<double> exact, sizes;
          expected(of, kvHead * headDim, headDim, begin, end, own + h * headDim, exact, sizes);
          const double rounding = roundingOf(of, kvHead * headDim, headDim, begin, end, own + h * headDim);
          for (int64_t d = 0; d < headDim; ++d) {
            const auto at = static_cast<size_t>(d);
            CHECK_NEAR(got[h * headDim + d], exact[at], rounding * sizes[at]);
          }
        }
      }
    }
  });
}

TEST("attention: of a prompt in bf16, large scores, and NaN where a query or a key is none") {
  forTargets([&](const Kernels& kernels) {
    if (kernels.attendPrompt == nullptr) return;
    check::Random random(3);
    const int64_t headDim = 16, count = 40;
    Sequence of(kernels, shape(1, 1, headDim), Dtype::bf16, count, random);
    std::vector<float> q = random.floats(count * headDim);
    for (float& value : q) value *= 3e4f;
    const cpu::PromptQueries all{0, count, 1, 0};
    // Weights make up 1, however far scores lie apart.
    const float most = *std::max_element(of.values.begin(), of.values.end());
    for (const float value : attended(kernels, of.cache.view(0), 0, all, q.data()))
      CHECK(value <= 1.01f * most);
    q[static_cast<size_t>(5 * headDim)] = NAN;
    const std::vector<float> broken = attended(kernels, of.cache.view(0), 0, all, q.data());
    for (int64_t i = 0; i < count * headDim; ++i) {
      CHECK_EQUAL(std::isnan(broken[static_cast<size_t>(i)]), i / headDim == 5);
    }
    std::vector<float> key(static_cast<size_t>(headDim), NAN), value(key.size(), 1.0f);
    kernels.storeKv(of.cache.view(0), 33, key.data(), value.data());
    const std::vector<float> after = attended(kernels, of.cache.view(0), 0, all, q.data());
    for (int64_t i = 0; i < count; ++i) {
      CHECK_EQUAL(std::isnan(after[static_cast<size_t>(i * headDim)]), i == 5 || i >= 33);
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
