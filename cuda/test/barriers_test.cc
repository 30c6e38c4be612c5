// Every barrier of every kernel is needed, and the emulator notices when one is missing. (Those of
// kernels/linears.h are in linears_test.cc.)

#include "test/barriers.h"

#include <utility>

#include "kernels/attention.h"
#include "kernels/calibrate.h"
#include "kernels/eigen.h"
#include "kernels/eigen_blocks.h"
#include "kernels/label_losses.h"
#include "kernels/passes.h"
#include "kernels/pivots.h"
#include "kernels/products.h"
#include "tensor/dtype.h"
#include "test/caches.h"
#include "test/matrices.h"
#include "test/sampling.h"
#include "test/sequence_attention.h"

#ifndef __CUDACC__

using namespace flrc::gpu;
using test::Array;
using test::bytesOf;
using test::Device;

namespace {

std::vector<uint16_t> halves(check::Random& random, int64_t count) {
  std::vector<uint16_t> bits;
  for (const float value : random.floats(count)) bits.push_back(flrc::floatToBf16(value));
  return bits;
}

std::vector<double> gaussian(uint64_t seed, int64_t count) {
  check::Random random(seed);
  return test::randoms(random, count);
}

// The eigenvectors of a random Gram matrix.
struct GramEigen {
  GramEigen(Device& device, uint64_t seed, int64_t size)
      : n(static_cast<int>(size)), factor(gaussian(seed, size * size)) {
    launchProduct(device.stream(), {factor.read(), factor.read(), a.global(), n, n, n, true, true}, 1);
  }

  EigenParams params() {
    return {a.read(),        n, nullptr, rows.global(), lengths.global(), busy.global(), values.global(),
            vectors.global()};
  }

  int n;
  Array<double> factor, a{static_cast<size_t>(n * n)}, rows{static_cast<size_t>(n * n)},
      lengths{static_cast<size_t>(kRowLengths * n)}, values{static_cast<size_t>(n)},
      vectors{static_cast<size_t>(n * n)};
  Array<uint32_t> busy{size_t{kEigenSweeps}};
};

}  // namespace

TEST("barriers: norm") {
  CHECK_EVERY_BARRIER([](Device& device) {
    check::Random random(1);
    Array<float> x(random.floats(300)), weight(random.floats(300)), y(size_t{300});
    launchNorm(device.stream(), {x.global(), nullptr, weight.read(), y.global(), 1e-5f, 300}, 1, false);
    device.synchronise();
    return bytesOf(y);
  });
}

TEST("barriers: embedding") {
  CHECK_EVERY_BARRIER([](Device& device) {
    test::Caches caches(1, 8, 8, {3});
    Array<uint8_t> table(std::vector<uint8_t>(5 * 64 * 2, 1));
    Array<CacheRow> staged(caches.describe({4})), rows(size_t{1});
    Array<float> x(size_t{64});
    launchEmbed(device.stream(), flrc::Dtype::bf16,
                {table.read(), 64, staged.read(), rows.global(), x.global()}, 1, false);
    device.synchronise();
    return bytesOf(x);
  });
}

TEST("barriers: decode attention") {
  // One chunk, one group, and two groups; and a cluster.
  for (const auto& [position, clusters] : {std::pair{40, false}, {250, false}, {2100, false}, {250, true}}) {
    CHECK_EVERY_BARRIER([position = position, clusters = clusters](Device& device) {
      check::Random random(2);
      const int length = position + 1, chunks = attentionChunks(length, 0);
      test::Caches caches(1, length, 32, {position});
      caches.fill(random);
      Array<float> q(random.floats(64)), k(random.floats(32)), v(random.floats(32)),
          cosine(random.floats(length * 16)), sine(random.floats(length * 16)), out(size_t{64}),
          partial(static_cast<size_t>(attentionFloats(1, 2, 32, chunks)));
      Array<uint32_t> counters(std::vector<uint32_t>(static_cast<size_t>(attentionCounters(1, 2, chunks))));
      launchAttention(device.stream(),
                      {{q.global(), k.read(), v.read(), nullptr, nullptr, 1e-6f, cosine.read(), sine.read(), 2,
                        1, 32, 16, caches.rows(), 0},
                       out.global(),
                       0,
                       partial.global(),
                       counters.global()},
                      1, length, {clusters, false});
      device.synchronise();
      return bytesOf(out);
    });
  }
}

TEST("barriers: prefill attention") {
  CHECK_EVERY_BARRIER([](Device& device) {
    check::Random random(3);
    Array<uint16_t> keys(halves(random, 150 * 16)), values(halves(random, 150 * 16));
    Array<float> q(random.floats(20 * 16)), out(size_t{20 * 16});
    launchPrefillAttention(device.stream(),
                           {q.read(), out.global(), 1, 1, 16, 0, keys.read(), values.read(), 130, 20});
    device.synchronise();
    return bytesOf(out);
  });
}

TEST("barriers: attention of a sequence to itself, and its way back") {
  // Three blocks, the last of which goes through all keys, and the first through all queries.
  for (const test::AttentionShape& shape : {test::AttentionShape{1, 1, 8, 0, 140}, {1, 1, 136, 0, 70}}) {
    CHECK_EVERY_BARRIER([&](Device& device) {
      test::SequenceAttention one(shape, 15);
      one.forward(device, {{0, shape.tokens}});
      device.synchronise();
      return bytesOf(one.out) + bytesOf(one.logSums);
    });
    CHECK_EVERY_BARRIER([&](Device& device) {
      test::SequenceAttention one(shape, 16);
      one.forward(device, {{0, shape.tokens}});
      // What is left out is left out on the way back.
      const int dropped = std::exchange(device.machine().dropBarrier, -1);
      device.synchronise();
      device.machine().dropBarrier = dropped;
      one.backward(device, {{0, shape.tokens}});
      device.synchronise();
      return bytesOf(one.dq) + bytesOf(one.dk) + bytesOf(one.dv);
    });
  }
}

TEST("barriers: back through a norm, squares of columns, and losses of labels") {
  CHECK_EVERY_BARRIER([](Device& device) {
    check::Random random(16);
    Array<float> x(random.floats(12 * 40));
    Array<double> sums(size_t{40});
    launchColumnSquares(device.stream(), {x.read(), nullptr, sums.global(), 12, 40});
    device.synchronise();
    return bytesOf(sums);
  });
  CHECK_EVERY_BARRIER([](Device& device) {
    check::Random random(19);
    std::vector<float> squares = random.floats(300);
    for (float& square : squares) square *= square;
    Array<float> factors(squares);
    launchClipFactors(device.stream(), {factors.read(), factors.global(), 300});
    device.synchronise();
    return bytesOf(factors);
  });
  CHECK_EVERY_BARRIER([](Device& device) {
    check::Random random(17);
    Array<float> x(random.floats(300)), weight(random.floats(300)), dy(random.floats(300)), dx(size_t{300});
    launchNormBackward(device.stream(), {x.read(), dy.read(), weight.read(), dx.global(), 1e-5f, 300, false},
                       1);
    device.synchronise();
    return bytesOf(dx);
  });
  for (const bool drawn : {false, true}) {
    CHECK_EVERY_BARRIER([drawn](Device& device) {
      check::Random random(18);
      Array<float> logits(random.floats(700));
      Array<int32_t> next(std::vector<int32_t>{600});
      Array<double> losses(size_t{1}), total(std::vector<double>{0});
      launchLabelLosses(device.stream(), {logits.global(), 1, 700, next.read(), true, drawn, 3, 0,
                                          losses.global(), total.global()});
      device.synchronise();
      return bytesOf(logits) + bytesOf(losses);
    });
  }
}

TEST("barriers: sampling") {
  // A block to a chunk, and blocks of two chunks.
  for (const auto& [vocab, multiprocessors] : {std::pair{4100, 4}, {16100, 1}}) {
    CHECK_EVERY_BARRIER(
        [vocab = vocab, multiprocessors = multiprocessors](Device& device) {
          check::Random random(4);
          test::SamplingMemory memory(vocab);
          // Some of every chunk have the last key that is kept.
          const std::vector<float> few = random.floats(40);
          std::vector<float> values;
          for (int i = 0; i < vocab; ++i) values.push_back(few[static_cast<size_t>(random.below(40))]);
          Array<float> logits(values), kept(static_cast<size_t>(vocab));
          Array<Likeliest> likeliest(size_t{1});
          Array<SampledRow> sampled(size_t{1}), out(size_t{1});
          launchLikeliest(
              device.stream(),
              memory.likeliest({{logits.read(), kept.global(), likeliest.global(), sampled.global()}}), 1,
              false);
          launchSample(device.stream(),
                       memory.sample({{kept.read(), likeliest.read(), out.global(), {1, 300, 0.7f, 0, 5, 0}}}),
                       1, multiprocessors);
          device.synchronise();
          return bytesOf(sampled) + bytesOf(out);
        },
        80);
  }
}

TEST("barriers: Fisher scores, moments, thin products and curves") {
  CHECK_EVERY_BARRIER([](Device& device) {
    check::Random random(5);
    // Four stages a sequence: the last is where the next use of shared memory begins.
    Array<uint16_t> g(halves(random, 200 * 16)), x(halves(random, 200 * 24)), low(halves(random, 200 * 24)),
        w(halves(random, 16 * 32));
    Array<double> sums(std::vector<double>(3)), partial(size_t{6}), moment(std::vector<double>(24 * 25 / 2));
    launchFisher(device.stream(), flrc::Dtype::bf16,
                 {{g.read(), 16, 16},
                  {x.read(), 24, 24},
                  {2, 100},
                  pointerCast<const uint8_t>(w.read()),
                  partial.global(),
                  sums.global()},
                 0);
    launchMoment(device.stream(), {{x.read(), 24, 24}, low.read(), {2, 100}, moment.global()}, 0);
    device.synchronise();
    return bytesOf(sums) + bytesOf(moment);
  });
  CHECK_EVERY_BARRIER([](Device& device) {
    check::Random random(7);
    Array<uint16_t> x(halves(random, 10 * 104)), xLow(halves(random, 10 * 104)),
        high(halves(random, 300 * 104)), low(halves(random, 300 * 104));
    Array<float> product(size_t{10 * 300}), u(random.floats(10 * 300));
    Array<double> partial(size_t{kCurveBlocks * 301}), curve(std::vector<double>(301));
    launchThinProduct(
        device.stream(),
        {{x.read(), 104, 104}, xLow.read(), 10, high.read(), low.read(), 104, 300, product.global(), 300}, 0);
    launchCurve(device.stream(),
                {u.read(), product.global(), nullptr, 10, 300, partial.global(), curve.global()});
    device.synchronise();
    return bytesOf(curve);
  });
  CHECK_EVERY_BARRIER([](Device& device) {
    check::Random random(15);
    Array<uint16_t> x(halves(random, 10 * 104)), xLow(halves(random, 10 * 104)), high(halves(random, 104 * 40)),
        low(halves(random, 104 * 40));
    Array<float> product(size_t{10 * 40});
    launchThinProduct(
        device.stream(),
        {{x.read(), 104, 104}, xLow.read(), 10, high.read(), low.read(), 40, 40, product.global(), 40, true},
        0);
    device.synchronise();
    return bytesOf(product);
  });
}

TEST("barriers: Fisher scores, moments and products by clusters of warpgroups") {
  constexpr int kOutputs = 136, kInputs = 24, kMultiprocessors = 2;
  const auto score = [](Device& device) {
    // Ten boxes for nine places; five of a sequence, so that no warpgroup waits for the other.
    constexpr Passage kPassage{2, 150};
    check::Random random(13);
    Array<uint16_t> g(halves(random, kPassage.sequences * kPassage.tokens * kOutputs)),
        x(halves(random, kPassage.sequences * kPassage.tokens * kInputs)), w(halves(random, kOutputs * 32));
    Array<double> sums(std::vector<double>(3));
    FisherParams params{{g.read(), kOutputs, kOutputs},
                        {x.read(), kInputs, kInputs},
                        kPassage,
                        pointerCast<const uint8_t>(w.read()),
                        nullptr,
                        sums.global()};
    Array<double> partial(static_cast<size_t>(fisherPartials(params)));
    params.partial = partial.global();
    launchFisher(device.stream(), flrc::Dtype::bf16, params, kMultiprocessors);
    device.synchronise();
    return bytesOf(sums);
  };
  const auto moment = [](Device& device) {
    // Fifteen for thirteen.
    constexpr Passage kPassage{3, 150};
    check::Random random(14);
    Array<uint16_t> x(halves(random, kPassage.sequences * kPassage.tokens * kInputs));
    Array<double> sum(std::vector<double>(kInputs * (kInputs + 1) / 2));
    launchMoment(device.stream(), {{x.read(), kInputs, kInputs}, nullptr, kPassage, sum.global()},
                 kMultiprocessors);
    device.synchronise();
    return bytesOf(sum);
  };
  const auto product = [](bool back) {
    return [back](Device& device) {
      // Eight stages of each half for six places.
      constexpr int kDepth = 488;
      check::Random random(19);
      Array<uint16_t> x(halves(random, kOutputs * kDepth)), low(halves(random, kOutputs * kDepth)),
          w(halves(random, kInputs * kDepth));
      Array<float> out(size_t{kOutputs * kInputs});
      launchThinProduct(device.stream(),
                        {{x.read(), kDepth, kDepth},
                         low.read(),
                         kOutputs,
                         w.read(),
                         nullptr,
                         back ? kInputs : kDepth,
                         kInputs,
                         out.global(),
                         kInputs,
                         back},
                        kMultiprocessors);
      device.synchronise();
      return bytesOf(out);
    };
  };
  CHECK_EVERY_BARRIER(score);
  CHECK_EVERY_BARRIER(moment);
  CHECK_EVERY_BARRIER(product(false));
  for (const int multiplying : {0, 128}) {
    CHECK_EVERY_WAIT(score, multiplying, 0);
    CHECK_EVERY_WAIT(moment, multiplying, 0);
    CHECK_EVERY_WAIT(product(true), multiplying, 0);
  }
  // Who fetches finds every place free at first.
  CHECK_EVERY_WAIT(score, 256, 9);
  CHECK_EVERY_WAIT(moment, 256, 13);
  CHECK_EVERY_WAIT(product(false), 256, 6);
}

TEST("barriers: products, bases, eigenvectors and pivots") {
  CHECK_EVERY_BARRIER([](Device& device) {
    check::Random random(8);
    Array<double> a(test::randoms(random, 40 * 40)), b(test::randoms(random, 40 * 40)), c(size_t{40 * 40});
    launchProduct(device.stream(), {a.read(), b.read(), c.global(), 40, 40, 40, false, false}, 1);
    device.synchronise();
    return bytesOf(c);
  });
  CHECK_EVERY_BARRIER([](Device& device) {
    check::Random random(9);
    constexpr int kRows = 70, kWidth = 80;
    Array<double> q(test::randoms(random, kRows * kWidth)), gram(size_t{kRows * kRows}),
        lower(size_t{kRows * kRows}), lengths(size_t{kRowLengths * kRows});
    launchOrthonormalise(device.stream(),
                         {q.global(), kRows, kWidth, gram.global(), lower.global(), lengths.global()}, 1, 1);
    device.synchronise();
    return bytesOf(q);
  });
  CHECK_EVERY_BARRIER(
      [](Device& device) {
        GramEigen problem(device, 10, 36);
        launchEigen(device.stream(), problem.params(), 1);
        device.synchronise();
        return bytesOf(problem.vectors);
      },
      // The last two sweeps find little to turn, or nothing.
      25, {74, 2});
  CHECK_EVERY_BARRIER(
      [](Device& device) {
        GramEigen problem(device, 12, 50);
        const EigenParams params = problem.params();
        launchCholesky(device.stream(), {params.a, params.rows, params.lengths, params.n}, 1);
        launchBlockEigen(device.stream(), params, 1);
        device.synchronise();
        return bytesOf(problem.vectors);
      },
      25);
  CHECK_EVERY_BARRIER([](Device& device) {
    check::Random random(11);
    Array<double> u(test::randoms(random, 40 * 300)), r(size_t{40 * 300}), basis(size_t{40 * 40}),
        norms(size_t{300});
    Array<int32_t> order(size_t{40}), rank(size_t{1});
    launchPivotedQr(
        device.stream(),
        {u.global(), r.global(), basis.global(), norms.global(), order.global(), rank.global(), 40, 300}, 1);
    device.synchronise();
    return bytesOf(r) + bytesOf(order);
  });
}

#endif
