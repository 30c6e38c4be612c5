// Of the emulator: kernels that are wrong on purpose must fail, and their mended versions must pass, at every
// seed.

#include <string>

#include "check.h"
#include "tensor/dtype.h"
#include "test/faults.h"

using namespace flrc::gpu;
using flrc::emulator::Fault;
using test::Array;
using test::Device;
using test::faultOf;
using test::kSeeds;
using test::says;

namespace {

struct Reversal {
  Global<const int> in;
  Global<int> out;
  bool barrier;
};

void reverse(const Reversal p) {
  Shared<int> values = sharedMemory<int>(0);
  values[threadIndex()] = p.in[threadIndex()];
  if (p.barrier) syncBlock();
  p.out[threadIndex()] = values[blockThreads() - 1 - threadIndex()];
}

std::vector<int> counting(int count) {
  std::vector<int> values;
  for (int i = 0; i < count; ++i) values.push_back(i);
  return values;
}

}  // namespace

TEST("emulator: a missing block barrier is a fault, whatever the order of threads") {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Array<int> in(counting(64)), out(64);
    const LaunchShape shape{.threads = 64, .sharedBytes = 64 * sizeof(int)};
    CHECK_EQUAL(faultOf(seed, shape, reverse, Reversal{in.read(), out.global(), true}), "");
    for (int i = 0; i < 64; ++i) CHECK_EQUAL(out.download()[static_cast<size_t>(i)], 63 - i);
    CHECK(!faultOf(seed, shape, reverse, Reversal{in.read(), out.global(), false}).empty());
  }
}

TEST("emulator: an index out of bounds, a misaligned access and a write to what is read are faults") {
  Array<int> in(counting(64)), out(63), whole(64);
  const LaunchShape shape{.threads = 64, .sharedBytes = 64 * sizeof(int)};
  CHECK(says(faultOf(1, shape, reverse, Reversal{in.read(), out.global(), true}), "out of bounds"));
  CHECK(says(faultOf(1, {.threads = 64, .sharedBytes = 63 * sizeof(int)}, reverse,
                     Reversal{in.read(), whole.global(), true}),
             "out of bounds"));
  struct Params {
    Global<const int> in;
    Global<int> out;
  };
  CHECK(says(faultOf(
                 1, {.threads = 32},
                 [](const Params& p) { p.out[threadIndex()] = pointerCast<const Word2>(p.in + 1)[0].x; },
                 Params{in.read(), whole.global()}),
             "misaligned"));
  CHECK(says(faultOf(
                 1, {.threads = 32}, [](const Params& p) { Global<int>(p.in.memory(), p.in.at())[0] = 1; },
                 Params{in.read(), whole.global()}),
             "only read"));
}

TEST("emulator: more shared memory than every chip has is a fault of who did not ask the chip") {
  Array<int> in(counting(64)), out(64);
  const auto faultAt = [&](size_t bytes, bool fitted) -> std::string {
    try {
      return faultOf(1, {.threads = 64, .sharedBytes = bytes, .fitted = fitted}, reverse,
                     Reversal{in.read(), out.global(), true});
    } catch (const Fault& fault) {
      return fault.what();
    }
  };
  constexpr size_t kMost = size_t{227} * 1024;
  CHECK_EQUAL(faultAt(kSharedOfAnyChip, false), "");
  CHECK(says(faultAt(kSharedOfAnyChip + 16, false), "a block of some chips"));
  CHECK_EQUAL(faultAt(kMost, true), "");
  CHECK(says(faultAt(kMost + 16, true), "a block of any chip"));
}

TEST("emulator: memory that nobody wrote is poisoned, and reading it is a fault") {
  Array<int> in(size_t{32}), out(size_t{32});
  CHECK(in.download()[0] == static_cast<int>(0xfefefefeu));
  (void)in.global();
  CHECK(says(faultOf(1, {.threads = 32, .sharedBytes = 128}, reverse, Reversal{in.read(), out.global(), true}),
             "nobody has written"));
}

TEST("emulator: a barrier that some threads leave out stops the launch") {
  struct Params {
    int without;
  };
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    CHECK(says(faultOf(
                   seed, {.threads = 64},
                   [](const Params& p) {
                     if (threadIndex() != p.without) syncBlock();
                   },
                   Params{17}),
               "63 threads wait for the block's barrier"));
    CHECK(says(faultOf(
                   seed, {.threads = 32},
                   [](const Params& p) {
                     if (threadIndex() != p.without) shuffleXor(1, 1);
                   },
                   Params{17}),
               "lanes"));
  }
}

namespace {

struct Staging {
  Global<const int> in;
  Global<int> out;
  bool wait, barrier;
};

// Each thread copies 16 bytes and reads what its neighbour copied.
void stageByCopies(const Staging p) {
  Shared<int> values = sharedMemory<int>(0);
  const int at = 4 * threadIndex();
  copyAsync(pointerCast<uint8_t>(values + at), pointerCast<const uint8_t>(p.in + at));
  commitCopies();
  if (p.wait) waitCopies<0>();
  if (p.barrier) syncBlock();
  const int from = 4 * ((threadIndex() + 1) % blockThreads());
  for (int i = 0; i < 4; ++i) p.out[at + i] = values[from + i];
  waitCopies<0>();
}

struct Bulk {
  Global<const int> in;
  Global<int> out;
  bool initBarrier, wait;
  uint32_t expected;
};

void stageByBulk(const Bulk p) {
  Shared<uint64_t> phase = sharedMemory<uint64_t>(0);
  Shared<int> values = sharedMemory<int>(16);
  if (threadIndex() == 0) phaseInit(phase, 1);
  if (p.initBarrier) syncBlock();
  if (threadIndex() == 0) {
    phaseExpect(phase, p.expected);
    bulkCopy(pointerCast<uint8_t>(values), pointerCast<const uint8_t>(p.in), 256, phase);
  }
  if (p.wait) phaseWait(phase, 0);
  p.out[threadIndex()] = values[threadIndex()];
}

}  // namespace

TEST("emulator: asynchronous copies land at their wait, for others after a barrier behind it") {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Array<int> in(counting(256)), out(256);
    const LaunchShape shape{.threads = 64, .sharedBytes = 1024};
    CHECK_EQUAL(faultOf(seed, shape, stageByCopies, Staging{in.read(), out.global(), true, true}), "");
    for (int i = 0; i < 256; ++i) CHECK_EQUAL(out.download()[static_cast<size_t>(i)], (i + 4) % 256);
    CHECK(
        says(faultOf(seed, shape, stageByCopies, Staging{in.read(), out.global(), false, true}), "on its way"));
    CHECK(!faultOf(seed, shape, stageByCopies, Staging{in.read(), out.global(), true, false}).empty());
  }
}

TEST("emulator: a bulk copy is there when its mbarrier's phase is over, and not before") {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Array<int> in(counting(64)), out(64);
    const LaunchShape shape{.threads = 64, .sharedBytes = 16 + 256};
    CHECK_EQUAL(faultOf(seed, shape, stageByBulk, Bulk{in.read(), out.global(), true, true, 256}), "");
    for (int i = 0; i < 64; ++i) CHECK_EQUAL(out.download()[static_cast<size_t>(i)], i);
    CHECK(!faultOf(seed, shape, stageByBulk, Bulk{in.read(), out.global(), true, false, 256}).empty());
    CHECK(!faultOf(seed, shape, stageByBulk, Bulk{in.read(), out.global(), false, true, 256}).empty());
    CHECK(says(faultOf(seed, shape, stageByBulk, Bulk{in.read(), out.global(), true, true, 512}), "mbarrier"));
  }
}

namespace {

struct Hearsay {
  Global<int> out;
  bool knows;
};

// Of a value that the first warp has put in order for itself, the second hears from who arrives.
void hear(const Hearsay p) {
  Shared<uint64_t> phase = sharedMemory<uint64_t>(0);
  Shared<int> value = sharedMemory<int>(16);
  if (threadIndex() == 0) phaseInit(phase, 1);
  syncBlock();
  if (threadIndex() == 0) value[0] = 7;
  syncWarp();
  if (threadIndex() == (p.knows ? 1 : 32)) phaseArrive(phase);
  phaseWait(phase, 0);
  p.out[threadIndex()] = value[0];
}

}  // namespace

TEST("emulator: who waits for an mbarrier learns what those knew who arrived, and nothing of others who wait") {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Array<int> out(64);
    const LaunchShape shape{.threads = 64, .sharedBytes = 32};
    CHECK_EQUAL(faultOf(seed, shape, hear, Hearsay{out.global(), true}), "");
    for (size_t i = 0; i < 64; ++i) CHECK_EQUAL(out.at(i), 7);
    const std::string fault = faultOf(seed, shape, hear, Hearsay{out.global(), false});
    CHECK(says(fault, "not ordered before it") || says(fault, "nobody has written"));
  }
}

namespace {

struct Ring {
  Global<const int> in;
  Global<int> out;
  int stages;
  bool barrier;
};

// One buffer filled again and again: its readers must be done before the next copy to it starts.
void reuseBuffer(const Ring p) {
  Shared<uint64_t> phase = sharedMemory<uint64_t>(0);
  Shared<int> values = sharedMemory<int>(16);
  if (threadIndex() == 0) phaseInit(phase, 1);
  syncBlock();
  for (int stage = 0; stage < p.stages; ++stage) {
    if (threadIndex() == 0) {
      phaseExpect(phase, 256);
      bulkCopy(pointerCast<uint8_t>(values), pointerCast<const uint8_t>(p.in + 64 * stage), 256, phase);
    }
    phaseWait(phase, static_cast<uint32_t>(stage % 2));
    p.out[64 * stage + threadIndex()] = values[63 - threadIndex()];
    if (p.barrier) syncBlock();
  }
}

}  // namespace

TEST("emulator: a buffer filled again before all have read it is a fault") {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Array<int> in(counting(192)), out(192);
    const LaunchShape shape{.threads = 64, .sharedBytes = 16 + 256};
    CHECK_EQUAL(faultOf(seed, shape, reuseBuffer, Ring{in.read(), out.global(), 3, true}), "");
    for (int i = 0; i < 192; ++i)
      CHECK_EQUAL(out.download()[static_cast<size_t>(i)], i / 64 * 64 + 63 - i % 64);
    CHECK(!faultOf(seed, shape, reuseBuffer, Ring{in.read(), out.global(), 3, false}).empty());
  }
}

namespace {

struct Counter {
  Global<uint32_t> counter;
  Global<int> mail, out;
};

// Blocks of one launch hand over a value through a counter.
void handOver(const Counter p) {
  if (threadIndex() == 0) {
    p.mail[blockX()] = 10 + blockX();
    const uint32_t step = blockX() == 0 ? 0x80000000u - static_cast<uint32_t>(gridX() - 1) : 1u;
    waitForFlip(p.counter, atomicAddOrdered(p.counter, step));
    p.out[blockX()] = p.mail[(blockX() + 1) % gridX()];
  }
}

void handOverUnordered(const Counter p) {
  if (threadIndex() == 0) {
    p.mail[blockX()] = 10 + blockX();
    atomicAdd(p.counter, 1u);
    p.out[blockX()] = p.mail[(blockX() + 1) % gridX()];
  }
}

}  // namespace

TEST("emulator: a grid barrier orders what blocks wrote, and a plain atomic does not") {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Array<uint32_t> counter(std::vector<uint32_t>{0});
    Array<int> mail(5), out(5);
    const LaunchShape shape{.gridX = 5, .threads = 32, .cooperative = true};
    const Counter params{counter.global(), mail.global(), out.global()};
    for (int round = 0; round < 3; ++round) CHECK_EQUAL(faultOf(seed, shape, handOver, params), "");
    for (int i = 0; i < 5; ++i) CHECK_EQUAL(out.download()[static_cast<size_t>(i)], 10 + (i + 1) % 5);
    CHECK(!faultOf(seed, shape, handOverUnordered, params).empty());
  }
}

TEST("emulator: blocks that are not launched together cannot wait for each other") {
  int stuck = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Array<uint32_t> counter(std::vector<uint32_t>{0});
    Array<int> mail(8), out(8);
    const LaunchShape shape{.gridX = 8, .threads = 32};
    stuck += says(faultOf(seed, shape, handOver, Counter{counter.global(), mail.global(), out.global()}),
                  "a counter");
  }
  CHECK_EQUAL(stuck, static_cast<int>(kSeeds));
}

namespace {

struct Link {
  Global<const int> in;
  Global<int> out;
  bool wait;
};

void follow(const Link p) {
  dependentTrigger();
  if (p.wait) dependentWait();
  p.out[threadIndex()] = p.in[threadIndex()] + 1;
}

}  // namespace

TEST("emulator: a dependent launch sees the one ahead of it after its wait only") {
  int caught = 0;
  for (uint64_t seed = 0; seed < 4 * kSeeds; ++seed) {
    for (const bool wait : {true, false}) {
      Array<int> first(counting(32)), second(32), third(32);
      (void)second.global();
      Device device(seed);
      const LaunchShape shape{.threads = 32, .dependent = true};
      launch(device.stream(), shape, follow, Link{first.read(), second.global(), true});
      launch(device.stream(), shape, follow, Link{second.read(), third.global(), wait});
      try {
        device.synchronise();
        if (wait) CHECK_EQUAL(third.download()[31], 33);
      } catch (const Fault&) {
        CHECK(!wait);
        ++caught;
      }
    }
  }
  CHECK(caught > static_cast<int>(kSeeds));
}

TEST("emulator: launches of two streams are in order where one was over when the other was made") {
  for (const bool over : {true, false}) {
    Array<int> out(32), other(32);
    Device first(1), second(2);
    const auto write = [](Device& device, Array<int>& to) {
      launch(
          device.stream(), {.threads = 32}, [](const Global<int>& p) { p[threadIndex()] = 1; }, to.global());
    };
    write(first, out);
    if (over) first.synchronise();
    for (Array<int>* to : {&out, &other}) {
      write(second, *to);
      second.synchronise();
    }
    bool fault = false;
    try {
      first.synchronise();
    } catch (const Fault&) {
      fault = true;
    }
    CHECK_EQUAL(fault, !over);
  }
}

namespace {

struct Product {
  Global<const uint16_t> a, b;  // a [16, 16], b [8, 16] (by columns)
  Global<float> d;              // [16, 8]
};

// d = a b by one warp, both operands through shared memory; b once as it lies and once transposed.
void multiplyOnce(const Product p) {
  Shared<uint16_t> a = sharedMemory<uint16_t>(0), b = a + 256;
  const int lane = laneIndex();
  const auto copyPairs = [lane](Shared<uint16_t> to, Global<const uint16_t> from, int pairs) {
    for (int i = lane; i < pairs; i += 32) pointerCast<uint32_t>(to)[i] = pointerCast<const uint32_t>(from)[i];
  };
  copyPairs(a, p.a, 128);
  copyPairs(b, p.b, 64);
  syncWarp();
  uint32_t left[4], right[4];
  loadMatrices<false>(left, a + (lane % 16 * 16 + lane / 16 * 8));
  loadMatrices<false>(right, b + (lane % 8 * 16 + lane / 8 % 2 * 8));
  float d[4] = {};
  const uint32_t columns[2] = {right[0], right[1]};
  multiplyFragments(d, left, columns);
  for (int i = 0; i < 4; ++i) p.d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

}  // namespace

TEST("emulator: matrix fragments multiply as PTX lays them out") {
  check::Random random(3);
  std::vector<uint16_t> a(256), b(128);
  for (auto& value : a) value = flrc::floatToBf16(static_cast<float>(random.normal()));
  for (auto& value : b) value = flrc::floatToBf16(static_cast<float>(random.normal()));
  Array<uint16_t> left(a), right(b);
  Array<float> d(128);
  CHECK_EQUAL(faultOf(1, {.threads = 32, .sharedBytes = 768}, multiplyOnce,
                      Product{left.read(), right.read(), d.global()}),
              "");
  for (size_t i = 0; i < 16; ++i) {
    for (size_t j = 0; j < 8; ++j) {
      double sum = 0, terms = 0;
      for (size_t k = 0; k < 16; ++k) {
        const double term = static_cast<double>(flrc::bf16ToFloat(a[i * 16 + k])) *
                            static_cast<double>(flrc::bf16ToFloat(b[j * 16 + k]));
        sum += term;
        terms += std::abs(term);
      }
      CHECK_NEAR(d.download()[i * 8 + j], sum, 17 * 0x1p-24 * terms);
    }
  }
}
