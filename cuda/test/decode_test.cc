// kernels/decode.h and kernels/attention.h (decode) against fp64, and columns alone against columns in a batch.

#include "kernels/decode.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <numeric>

#include "check.h"
#include "kernels/attention.h"
#include "kernels/layout.h"
#include "tensor/matrix.h"
#include "test/caches.h"
#include "test/device.h"

using namespace flrc::gpu;
using flrc::Activation;
using flrc::Dtype;
using test::Array;
using test::Device;

namespace {

constexpr double kUlp = 0x1p-24;

std::vector<float> slice(const std::vector<float>& all, int64_t first, int64_t count) {
  return {all.begin() + first, all.begin() + first + count};
}

}  // namespace

TEST("decode: rows of the embedding, of every dtype") {
  constexpr int kVocab = 9;
  constexpr float kScale = 1.7f;
  for (const Dtype dtype : {Dtype::bf16, Dtype::int8, Dtype::int4}) {
    for (const int width : {32, 70, 2100}) {
      check::Random random(static_cast<uint64_t>(width));
      const flrc::RowMatrix table =
          flrc::makeRows(random.floats(kVocab * width).data(), kVocab, width, width, dtype);
      Array<uint8_t> data(
          packRows(dtype, kVocab, table.stride, table.data.data(), table.scale.data(), table.zero.data()));
      const std::vector<int32_t> tokens = {3, 8, 0};
      test::Caches caches(1, 8, 8, {5, 0, 7});
      Array<CacheRow> staged(caches.describe(tokens)), rows(size_t{3});
      Array<float> x(static_cast<size_t>(3 * width));
      Device device(1);
      launchEmbed(device.stream(), dtype,
                  {data.read(), width, staged.read(), rows.global(), x.global(), kScale}, 3, true);
      device.synchronise();
      std::vector<float> expected(static_cast<size_t>(3 * width));
      for (size_t i = 0; i < 3; ++i) {
        flrc::getRow(table, tokens[i], expected.data() + i * static_cast<size_t>(width));
        CHECK_EQUAL(rows.at(i).token, tokens[i]);
        CHECK_EQUAL(rows.at(i).position, caches.positions()[i]);
        CHECK(rows.at(i).keys == staged.at(i).keys && rows.at(i).values == staged.at(i).values);
        CHECK_EQUAL(rows.at(i).layerStride, 64);
      }
      for (float& value : expected) value *= kScale;
      CHECK(x.download() == expected);
    }
  }
}

TEST("decode: residual and norm") {
  for (const int width : {7, 1000, 2000, 2050, 8000, 8200}) {
    for (const bool adds : {false, true}) {
      constexpr int kColumns = 3;
      constexpr float kScale = 0.75f;
      check::Random random(static_cast<uint64_t>(width));
      const std::vector<float> before = random.floats(kColumns * width),
                               delta = random.floats(kColumns * width), weight = random.floats(width);
      Array<float> x(before), add(delta), scale(weight), y(before.size());
      Device device(2);
      launchNorm(device.stream(),
                 {x.global(), adds ? add.read() : nullptr, scale.read(), y.global(), 1e-5f, width, kScale},
                 kColumns, true);
      device.synchronise();
      const std::vector<float> summed = x.download(), normed = y.download();
      for (int c = 0; c < kColumns; ++c) {
        double squares = 0;
        std::vector<double> sum;
        for (int i = 0; i < width; ++i) {
          const auto at = static_cast<size_t>(c * width + i);
          const double added = adds ? static_cast<double>(kScale) * static_cast<double>(delta[at]) : 0.0;
          sum.push_back(static_cast<double>(before[at]) + added);
          squares += sum.back() * sum.back();
          CHECK_NEAR(summed[at], sum.back(), kUlp * std::abs(sum.back()));
        }
        const double inverse = 1 / std::sqrt(squares / width + 1e-5);
        for (int i = 0; i < width; ++i) {
          const double expected =
              sum[static_cast<size_t>(i)] * inverse * static_cast<double>(weight[static_cast<size_t>(i)]);
          // Sums of width / 256 squares a thread, in whole octets, and of 5 + 8 partial sums; root, division,
          // products.
          CHECK_NEAR(normed[static_cast<size_t>(c * width + i)], expected,
                     (width / 256.0 + 32) * kUlp * std::abs(expected));
        }
        Array<float> alone(slice(before, c * width, width)), addAlone(slice(delta, c * width, width)),
            yAlone(static_cast<size_t>(width));
        launchNorm(device.stream(),
                   {alone.global(), adds ? addAlone.read() : nullptr, scale.read(), yAlone.global(), 1e-5f,
                    width, kScale},
                   1, false);
        // A norm may take the place of what it is of.
        if (!adds) {
          launchNorm(device.stream(), {alone.global(), nullptr, scale.read(), alone.global(), 1e-5f, width}, 1,
                     false);
          device.synchronise();
          CHECK(alone.download() == yAlone.download());
        }
        device.synchronise();
        CHECK(yAlone.download() == slice(normed, c * width, width));
      }
    }
  }
}

TEST("decode: activation(gate) * up") {
  constexpr int kCount = 777;
  check::Random random(3);
  std::vector<float> gate = random.floats(kCount), up = random.floats(kCount);
  gate[0] = 100;
  gate[1] = -100;
  Array<float> g(gate), u(up), y(size_t{kCount});
  Device device(3);
  for (const Activation activation : {Activation::silu, Activation::geluTanh}) {
    launchGated(device.stream(), {g.read(), u.read(), y.global(), kCount, activation}, true);
    device.synchronise();
    for (size_t i = 0; i < kCount; ++i) {
      const double x = static_cast<double>(gate[i]);
      const bool silu = activation == Activation::silu;
      const double power = silu ? x : 2 * std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x);
      const double expected = x / (1 + std::exp(-power)) * static_cast<double>(up[i]);
      // The exponential magnifies the roundings of its argument, up to where it changes nothing.
      const double roundings = silu ? 8 : 8 + 6 * std::min(90.0, std::abs(power));
      CHECK_NEAR(y.at(i), expected, roundings * kUlp * std::abs(expected) + 1e-37);
    }
  }
}

TEST("decode: heads are normed and rotated, keys and values cached, at each column's own position") {
  struct Shape {
    int heads, kvHeads, headDim, pairs;
    bool norms;
  };
  for (const auto& [heads, kvHeads, headDim, pairs, norms] :
       {Shape{4, 2, 16, 8, true}, Shape{9, 3, 64, 32, false}, Shape{2, 1, 80, 40, true},
        // Some dimensions are not turned: more than are, as many in a lane's second pair, fewer.
        Shape{3, 1, 64, 4, true}, Shape{2, 1, 256, 64, false}, Shape{2, 2, 96, 36, true},
        // None are.
        Shape{2, 1, 64, 0, true}}) {
    constexpr int kColumns = 3, kPositions = 12, kLayer = 1;
    constexpr float kScale = 1.3f;
    check::Random random(static_cast<uint64_t>(headDim));
    const int kvWidth = kvHeads * headDim;
    const std::vector<float> queries = random.floats(kColumns * heads * headDim),
                             keys = random.floats(kColumns * kvWidth),
                             values = random.floats(kColumns * kvWidth), queryNorm = random.floats(headDim),
                             keyNorm = random.floats(headDim), cosine = random.floats(kPositions * pairs),
                             sine = random.floats(kPositions * pairs);
    test::Caches caches(2, kPositions, kvWidth, {4, 0, 11});
    Array<float> q(queries), k(keys), v(values), qNorm(queryNorm), kNorm(keyNorm), cosines(cosine), sines(sine);
    Device device(4);
    launchRotate(
        device.stream(),
        {q.global(), k.read(), v.read(), norms ? qNorm.read() : nullptr, norms ? kNorm.read() : nullptr, 1e-6f,
         cosines.read(), sines.read(), heads, kvHeads, headDim, pairs, caches.rows(), kLayer, kScale},
        kColumns, true);
    device.synchronise();

    const auto expected = [&](const float* head, const std::vector<float>& norm, int position, int i) {
      double squares = 0;
      for (int j = 0; j < headDim; ++j) squares += static_cast<double>(head[j]) * static_cast<double>(head[j]);
      const double scale = norms ? 1 / std::sqrt(squares / headDim + 1e-6) : 1;
      const auto value = [&](int j) {
        return static_cast<double>(head[j]) * scale *
               (norms ? static_cast<double>(norm[static_cast<size_t>(j)]) : 1);
      };
      if (i >= 2 * pairs) return std::pair{value(i), std::abs(value(i))};
      const auto angle = static_cast<size_t>(position * pairs + i % pairs);
      const double c = static_cast<double>(cosine[angle]), s = static_cast<double>(sine[angle]);
      const double turned =
          i < pairs ? value(i) * c - value(i + pairs) * s : value(i) * c + value(i - pairs) * s;
      const double size = std::abs(value(i) * c) + std::abs(value(i < pairs ? i + pairs : i - pairs) * s);
      return std::pair{turned, size};
    };
    for (int c = 0; c < kColumns; ++c) {
      const int position = caches.positions()[static_cast<size_t>(c)];
      const test::Caches::Contents cached = caches.contents(c);
      for (int i = 0; i < heads * headDim; ++i) {
        const auto [turned, size] =
            expected(queries.data() + (c * heads + i / headDim) * headDim, queryNorm, position, i % headDim);
        CHECK_NEAR(q.at(static_cast<size_t>(c * heads * headDim + i)), static_cast<double>(kScale) * turned,
                   26 * kUlp * static_cast<double>(kScale) * size);
      }
      for (int i = 0; i < kvWidth; ++i) {
        const auto [turned, size] =
            expected(keys.data() + c * kvWidth + i / headDim * headDim, keyNorm, position, i % headDim);
        // To bf16: half a unit in its last place.
        CHECK_NEAR(cached.key(kLayer, position, i), turned, 0x1p-8 * std::abs(turned) + 24 * kUlp * size);
        CHECK_EQUAL(cached.value(kLayer, position, i),
                    flrc::bf16ToFloat(flrc::floatToBf16(values[static_cast<size_t>(c * kvWidth + i)])));
      }
    }
  }
}

namespace {

struct AttentionCase {
  int heads, kvHeads, headDim, window;
  std::vector<int> positions;
  bool oneSequence = false, norms = false;
  int unturned = 0;  // dimensions

  int pairs() const { return (headDim - unturned) / 2; }
};

// What attention takes besides caches, for some columns.
struct Inputs {
  std::vector<float> q, k, v, queryNorm, keyNorm, cosine, sine;
};

RotateParams rotation(const AttentionCase& one, Array<float>& q, Array<float>& k, Array<float>& v,
                      Array<float>& queryNorm, Array<float>& keyNorm, Array<float>& cosine, Array<float>& sine,
                      test::Caches& caches) {
  return {q.global(),
          k.read(),
          v.read(),
          one.norms ? queryNorm.read() : nullptr,
          one.norms ? keyNorm.read() : nullptr,
          1e-6f,
          cosine.read(),
          sine.read(),
          one.heads,
          one.kvHeads,
          one.headDim,
          one.pairs(),
          caches.rows(),
          1};
}

// The output; or, where nothing attends, the rotated queries. Keys and values are in the caches then, either
// way.
std::vector<float> attend(Device& device, const AttentionCase& one, test::Caches& caches, const Inputs& inputs,
                          int length, bool clusters, bool attends = true) {
  const auto columns = static_cast<int>(one.positions.size());
  const int chunks = attentionChunks(length, one.window);
  Array<float> q(inputs.q), k(inputs.k), v(inputs.v), queryNorm(inputs.queryNorm), keyNorm(inputs.keyNorm),
      cosine(inputs.cosine), sine(inputs.sine), out(inputs.q.size()),
      partial(static_cast<size_t>(attentionFloats(columns, one.heads, one.headDim, chunks)));
  Array<uint32_t> counters(
      std::vector<uint32_t>(static_cast<size_t>(attentionCounters(columns, one.heads, chunks))));
  const RotateParams heads = rotation(one, q, k, v, queryNorm, keyNorm, cosine, sine, caches);
  if (!attends) {
    launchRotate(device.stream(), heads, columns, true);
    device.synchronise();
    return q.download();
  }
  const AttentionParams params{heads, out.global(), one.window, partial.global(), counters.global()};
  // Twice: the counters are left as they were found.
  for (int i = 0; i < 2; ++i) launchAttention(device.stream(), params, columns, length, {clusters, true});
  device.synchronise();
  return out.download();
}

}  // namespace

TEST(
    "decode attention: any length, group of heads and window, and the same bits alone and in any graph's "
    "length") {
  const AttentionCase cases[] = {
      {4, 4, 16, 0, {0, 5, 127}},
      {6, 2, 64, 0, {128, 300, 1}, false, true},
      {8, 1, 80, 0, {130, 255, 256}},
      {4, 1, 128, 0, {30, 129, 200}},
      {3, 3, 64, 0, {63, 64}},
      {2, 1, 256, 0, {16, 140}, false, true},
      {2, 1, 128, 100, {99, 100, 260}, false, true},
      {3, 1, 200, 128, {300, 7, 383}},
      // Positions of one sequence, which see each other's keys.
      {4, 2, 64, 0, {126, 127, 128, 129}, true},
      {5, 1, 16, 40, {10, 11, 12}, true, true},
      // Heads that are turned in part.
      {2, 1, 64, 0, {3, 200}, false, true, 32},
      {2, 2, 96, 0, {20, 21}, true, false, 24},
      // More chunks than one group has.
      {1, 1, 8, 0, {2047, 2048, 4300}},
  };
  for (const AttentionCase& one : cases) {
    const auto columns = static_cast<int>(one.positions.size());
    const int kvWidth = one.kvHeads * one.headDim, width = one.heads * one.headDim,
              group = one.heads / one.kvHeads,
              longest = *std::max_element(one.positions.begin(), one.positions.end()) + 20;
    check::Random random(static_cast<uint64_t>(one.headDim));
    test::Caches caches(2, longest, kvWidth, one.positions, one.oneSequence);
    caches.fill(random);
    Inputs inputs{random.floats(columns * width),
                  random.floats(columns * kvWidth),
                  random.floats(columns * kvWidth),
                  random.floats(one.headDim),
                  random.floats(one.headDim),
                  {},
                  {}};
    for (int i = 0; i < longest * one.pairs(); ++i) {
      const double angle = 6 * random.normal();
      inputs.cosine.push_back(static_cast<float>(std::cos(angle)));
      inputs.sine.push_back(static_cast<float>(std::sin(angle)));
    }
    Device device(5);
    const std::vector<float> out = attend(device, one, caches, inputs, longest, false);
    std::vector<test::Caches> written;
    for (int c = 0; c < columns; ++c) written.push_back(caches.only(c));
    const std::vector<float> q = attend(device, one, caches, inputs, longest, false, false);
    for (int c = 0; c < columns; ++c) {
      const int position = one.positions[static_cast<size_t>(c)];
      const test::Caches::Contents cached = caches.contents(c),
                                   before = written[static_cast<size_t>(c)].contents(0);
      for (int i = 0; i < kvWidth; ++i) {
        CHECK_EQUAL(before.key(1, position, i), cached.key(1, position, i));
        CHECK_EQUAL(before.value(1, position, i), cached.value(1, position, i));
      }
      const int first = one.window > 0 ? std::max(0, position + 1 - one.window) : 0;
      for (int head = 0; head < one.heads; ++head) {
        const float* query = q.data() + c * width + head * one.headDim;
        std::vector<double> scores;
        double error = 0, most = -1e300, sum = 0;
        for (int t = first; t <= position; ++t) {
          double dot = 0, size = 0;
          for (int i = 0; i < one.headDim; ++i) {
            const double term = static_cast<double>(query[i]) *
                                static_cast<double>(cached.key(1, t, head / group * one.headDim + i));
            dot += term;
            size += std::abs(term);
          }
          scores.push_back(dot / std::sqrt(one.headDim));
          // Queries are two bf16 values, to 2^-17 of them.
          error = std::max(error, (0x1p-17 + (one.headDim + 6) * kUlp) * size / std::sqrt(one.headDim));
          most = std::max(most, scores.back());
        }
        for (double& score : scores) sum += score = std::exp(score - most);
        for (int i = 0; i < one.headDim; ++i) {
          double expected = 0, size = 0;
          for (int t = first; t <= position; ++t) {
            const double term = scores[static_cast<size_t>(t - first)] / sum *
                                static_cast<double>(cached.value(1, t, head / group * one.headDim + i));
            expected += term;
            size += std::abs(term);
          }
          // Scores err by `error`, which the weights and their sum both feel; weights are two bf16 values as
          // well; then some 60 roundings of sums.
          CHECK_NEAR(out[static_cast<size_t>(c * width + head * one.headDim + i)], expected,
                     (2 * error + 0x1p-17 + 64 * kUlp) * size);
        }
      }
      AttentionCase alone = one;
      alone.positions = {position};
      Inputs own = inputs;
      own.q = slice(inputs.q, c * width, width);
      own.k = slice(inputs.k, c * kvWidth, kvWidth);
      own.v = slice(inputs.v, c * kvWidth, kvWidth);
      for (const bool clusters : {false, true}) {
        CHECK(attend(device, alone, written[static_cast<size_t>(c)], own, position + 1, clusters) ==
              slice(out, c * width, width));
      }
#ifndef __CUDACC__
      Device small(5);
      small.machine().mostCluster = 2;
      CHECK(attend(small, alone, written[static_cast<size_t>(c)], own, position + 1, true) ==
            slice(out, c * width, width));
#endif
    }
  }
}
