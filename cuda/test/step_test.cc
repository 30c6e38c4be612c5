// kernels/step.h, products against fp64. Whole steps are compared with the launches of the other kernels, bit
// for bit (test/runtime/step_test.cc, and on a GPU bench/engine).

#include "kernels/step.h"

#include <cmath>
#include <utility>

#include "check.h"
#include "test/step_chain.h"

using namespace flrc::gpu;
using flrc::Dtype;
using test::Device;
using test::StepChain;
using test::Values;

namespace {

std::vector<double> received(const Values& values) {
  std::vector<double> numbers;
  for (const uint64_t word : values.download()) {
    float value;
    const auto bits = static_cast<uint32_t>(word);
    std::memcpy(&value, &bits, sizeof value);
    numbers.push_back(static_cast<double>(value));
  }
  return numbers;
}

// W x, and of each output the sum of its products' magnitudes.
struct Exact {
  std::vector<double> y, magnitude;
};
Exact times(const StepChain::Matrix& w, const std::vector<double>& x) {
  Exact exact;
  const std::vector<float> weights = w.weights();
  for (size_t o = 0; o < static_cast<size_t>(w.outputs); ++o) {
    double sum = 0, magnitude = 0;
    for (size_t i = 0; i < static_cast<size_t>(w.inputs); ++i) {
      const double one = static_cast<double>(weights[o * static_cast<size_t>(w.inputs) + i]) * x[i];
      sum += one;
      magnitude += std::abs(one);
    }
    exact.y.push_back(sum);
    exact.magnitude.push_back(magnitude);
  }
  return exact;
}

// Inputs are two bf16 numbers, to 2^-17; sums run in f32, of which tensor cores may cut off what they should
// round.
double errorOf(const StepChain::Matrix& w) { return 0x1p-17 + (w.inputs + 16) * 0x1p-23; }

void checkProduct(const StepChain::Matrix& w, const std::vector<double>& x, const Values& got) {
  const Exact exact = times(w, x);
  const std::vector<double> values = received(got);
  for (size_t o = 0; o < exact.y.size(); ++o)
    CHECK_NEAR(values[o], exact.y[o], errorOf(w) * exact.magnitude[o]);
}

std::vector<double> normalised(const std::vector<double>& x) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  std::vector<double> y;
  for (const double value : x) y.push_back(value / std::sqrt(squares / static_cast<double>(x.size()) + 1e-5));
  return y;
}

StepLaunch onThisChip(int blocks) {
#ifdef __CUDACC__
  int count = 0;
  flrc::gpu::check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
  return {blocks > 0 ? blocks : count, static_cast<int>(mostSharedBytes())};
#else
  return {blocks > 0 ? blocks : 3, static_cast<int>(mostSharedBytes())};
#endif
}

bool hasBulkCopies() {
#ifdef __CUDACC__
  int major = 0;
  flrc::gpu::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  return major >= 9;
#else
  return true;
#endif
}

// Products that wait for each other, of a residual stream, of values and gated; blocks 0: as many as there are.
void checkChain(Dtype dtype, int blocks) {
  if (!hasBulkCopies()) return;
  constexpr int kHidden = 200, kWide = 330, kInner = 300, kRank = 70;
  for (const int rank : {0, kRank}) {
    check::Random random(static_cast<uint64_t>(rank + 1));
    const std::vector<float> x = random.floats(kHidden);
    StepChain chain(onThisChip(blocks), x, dtype);
    Values &wide = chain.values(kWide), &other = chain.values(40), &inner = chain.values(kInner),
           &out = chain.values(kHidden), &last = chain.values(kWide);
    int made = chain.product(chain.normed(out, 0), {{&wide, kWide, rank}, {&other, 40, rank}});
    made = chain.gatedProduct(StepChain::given(wide, kWide, made), inner, kInner, rank);
    made = chain.product(StepChain::given(inner, kInner, made), {{&out, kHidden, rank}});
    chain.product(chain.normed(out, made), {{&last, kWide, 0}});
    chain.finish();
    Device device(static_cast<uint64_t>(blocks));
    // The second time with other numbers of exchanges.
    for (int i = 0; i < 2; ++i) chain.enqueue(device);
    device.synchronise();

    // Each product from what it was given.
    size_t index = 0;
    const auto checkFactors = [&](const std::vector<double>& input, const Values& got) {
      if (rank > 0) {
        const StepChain::Matrix& v = chain.matrix(index++);
        checkProduct(v, input, *v.t);
        return checkProduct(chain.matrix(index++), received(*v.t), got);
      }
      checkProduct(chain.matrix(index++), input, got);
    };
    const std::vector<double> stream(x.begin(), x.end()), first = normalised(stream), seen = received(wide);
    checkFactors(first, wide);
    checkFactors(first, other);
    // Gate and up are not sent: their errors go through silu, whose slope is at most 1.1, and the product.
    const auto made2 = [&] {
      const StepChain::Matrix& w = chain.matrix(index++);
      if (rank == 0) return std::pair{times(w, seen), errorOf(w)};
      checkProduct(w, seen, *w.t);
      const StepChain::Matrix& u = chain.matrix(index++);
      return std::pair{times(u, received(*w.t)), errorOf(u)};
    };
    const auto [gate, gateError] = made2();
    const auto [up, upError] = made2();
    const std::vector<double> gated = received(inner);
    for (size_t o = 0; o < gate.y.size(); ++o) {
      const double silu = gate.y[o] / (1 + std::exp(-gate.y[o]));
      const double off = 1.1 * gateError * gate.magnitude[o] + 0x1p-20 * std::abs(silu),
                   offUp = upError * up.magnitude[o];
      CHECK_NEAR(
          gated[o], silu * up.y[o],
          off * (std::abs(up.y[o]) + offUp) + std::abs(silu) * offUp + 0x1p-22 * std::abs(silu * up.y[o]));
    }
    checkFactors(gated, out);
    std::vector<double> sum = stream;
    const std::vector<double> added = received(out);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += added[i];
    checkProduct(chain.matrix(index), normalised(sum), last);
  }
}

// A block without rows of V keeps its copy of the residual stream all the same, and goes on to panels.
void checkFewRanks(Dtype dtype) {
  if (!hasBulkCopies()) return;
  constexpr int kHidden = 2048, kOutputs = 2048, kRank = 4, kBlocks = 5;
  check::Random random(1);
  const std::vector<float> x = random.floats(kHidden);
  StepChain chain(onThisChip(kBlocks), x, dtype);
  Values& out = chain.values(kOutputs);
  chain.product(chain.normed(out, 0), {{&out, kOutputs, kRank}});
  chain.finish();
  Device device(kBlocks);
  chain.enqueue(device);
  device.synchronise();
  const StepChain::Matrix& v = chain.matrix(0);
  checkProduct(v, normalised({x.begin(), x.end()}), *v.t);
  checkProduct(chain.matrix(1), received(*v.t), out);
}

}  // namespace

TEST("step bf16: products of values, of a residual stream and gated, by one block and by all") {
  checkChain(Dtype::bf16, 1);
  checkChain(Dtype::bf16, 0);
}
TEST("step int8: products of values, of a residual stream and gated") { checkChain(Dtype::int8, 0); }
TEST("step int4: products of values, of a residual stream and gated") { checkChain(Dtype::int4, 0); }
TEST("step: fewer ranks than blocks") {
  for (const Dtype dtype : {Dtype::bf16, Dtype::int8, Dtype::int4}) checkFewRanks(dtype);
}
