// What the plugin decides before anything is launched: what fits, where results go, how much room is made.

#include <numeric>

#include "check.h"
#include "runtime/device_limits.h"
#include "runtime/linears_plan.h"
#include "runtime/model.h"
#include "tensor/matrix.h"

using namespace flrc::gpu;
using flrc::Dtype;

namespace {

flrc::BackendRows rowsOf(const flrc::RowMatrix& m) {
  return {m.dtype, m.rows, m.cols, m.stride, m.data.data(), m.scale.data(), m.zero.data()};
}

flrc::BackendPanels panelsOf(const flrc::PanelMatrix& m) {
  return {m.dtype, m.outputs, m.rank, m.data.data(), m.scale.data(), m.zero.data()};
}

constexpr int64_t kOutputs = 70, kInputs = 40;

// Pivoted blocks of these ranks, every first outputs being pivots; or one plain block.
struct Factors {
  Factors(const std::vector<int64_t>& ranks, bool pivoted, Dtype dtype) {
    for (int64_t rank : ranks) {
      p.push_back(flrc::allocateRows(rank, kInputs, dtype));
      c.push_back(flrc::allocatePanels(rank, pivoted ? kOutputs - rank : kOutputs, dtype));
      pivots.emplace_back(static_cast<size_t>(rank));
      gathers.emplace_back(static_cast<size_t>(kOutputs));
      std::iota(pivots.back().begin(), pivots.back().end(), 0);
      std::iota(gathers.back().begin(), gathers.back().end(), 0);
    }
    for (size_t b = 0; b < ranks.size(); ++b) {
      blocks.push_back({rowsOf(p[b]), panelsOf(c[b]), pivoted ? pivots[b].data() : nullptr,
                        pivoted ? gathers[b].data() : nullptr});
    }
    linear = {kOutputs, kInputs, nullptr, blocks.data(), static_cast<int64_t>(blocks.size()), pivoted, nullptr};
  }

  std::vector<flrc::RowMatrix> p;
  std::vector<flrc::PanelMatrix> c;
  std::vector<std::vector<int32_t>> pivots, gathers;
  std::vector<flrc::BackendBlock> blocks;
  flrc::BackendLinear linear;
};

}  // namespace

TEST("cuda runtime: caches grow by doubling, up to the context") {
  CHECK_EQUAL(capacityFor(1, 4096), kLeastPositions);
  CHECK_EQUAL(capacityFor(kLeastPositions, 4096), kLeastPositions);
  CHECK_EQUAL(capacityFor(kLeastPositions + 1, 4096), 2 * kLeastPositions);
  CHECK_EQUAL(capacityFor(3000, 3500), 3500);
  CHECK_EQUAL(capacityFor(3, 20), 20);
}

TEST("cuda runtime: weights are fetched ahead, and launches begin early, where the chip has that") {
  const LinearsLaunch hopper = linearsLaunch({132, 227 * 1024, true, 132});
  CHECK_EQUAL(hopper.blocks, 132);
  CHECK_EQUAL(hopper.sharedBytes, 227 * 1024);
  CHECK(hopper.aheadBytes > 0 && hopper.dependent);
  const LinearsLaunch small = linearsLaunch({40, 64 * 1024, false, 0});
  CHECK_EQUAL(small.aheadBytes, 0);
  CHECK(!small.dependent);
}

TEST("cuda runtime: launches wait for each other where other processes' run beside them") {
  const LinearsLaunch shared = linearsLaunch({132, 227 * 1024, true, 132, true});
  CHECK(!shared.dependent && shared.bulk);
  CHECK_EQUAL(shared.aheadBytes, kAheadBytes);
}

TEST("cuda runtime: outputs that are no pivots, in the order in which they lie behind the pivots") {
  const std::vector<int32_t> gather = {2, 0, 3, 1, 4};  // outputs 1 and 3 are pivots
  CHECK(restOf(gather.data(), 5, 2) == std::vector<int32_t>({0, 2, 4}));
}

TEST("cuda runtime: one pivoted block writes its outputs itself, several are gathered") {
  const Factors factors({8, 16}, true, Dtype::bf16);
  const LinearWeights weights(factors.linear);
  CHECK_EQUAL(weights.blocksFor(7), 0);
  CHECK_EQUAL(weights.blocksFor(8), 1);
  CHECK_EQUAL(weights.blocksFor(24), 2);
  const Buffer<float> y(kOutputs);

  const LinearsParams one = planLinears({{&weights, 8, y.global()}});
  CHECK_EQUAL(one.rowJobs, 1);
  CHECK_EQUAL(one.panelJobs, 1);
  CHECK_EQUAL(one.gatherJobs, 0);
  CHECK_EQUAL(one.tWidth, kTAlign);
  CHECK_EQUAL(one.uWidth, 0);
  CHECK_EQUAL(one.inputs, kInputs);
  CHECK(one.rows[0].y != nullptr && one.rows[0].scatter != nullptr);
  CHECK_EQUAL(one.panels[0].width, 62);
  CHECK_EQUAL(one.panels[0].u, -1);

  const LinearsParams two = planLinears({{&weights, 24, y.global()}, {&weights, 8, y.global()}});
  CHECK_EQUAL(two.rowJobs, 3);
  CHECK_EQUAL(two.gatherJobs, 1);
  CHECK_EQUAL(two.gathers[0].blocks, 2);
  CHECK_EQUAL(two.gathers[0].t[1], kTAlign);
  CHECK_EQUAL(two.gathers[0].u[1], 62);
  CHECK_EQUAL(two.tWidth, 3 * kTAlign);
  CHECK_EQUAL(two.uWidth, 62 + 54);
  CHECK(two.rows[1].y == nullptr);

  const LinearsParams none = planLinears({{&weights, 0, y.global()}});
  CHECK_EQUAL(none.rowJobs + none.panelJobs, 0);
  CHECK_EQUAL(none.gathers[0].blocks, 0);
}

TEST("cuda runtime: plain factors use a prefix of their ranks") {
  const Factors factors({24}, false, Dtype::int4);
  const LinearWeights weights(factors.linear);
  const Buffer<float> y(kOutputs);
  const LinearsParams params = planLinears({{&weights, 10, y.global()}});
  CHECK_EQUAL(params.rows[0].rows, 10);
  CHECK(params.rows[0].y == nullptr);
  CHECK_EQUAL(params.panels[0].rank, 10);
  CHECK_EQUAL(params.panels[0].storedRank, 24);
  CHECK_EQUAL(params.panels[0].width, kOutputs);
}

TEST("cuda runtime: the bytes of weights are known before any are copied, and limits are told") {
  const Factors factors({8, 16}, true, Dtype::int8);
  const flrc::RowMatrix embedding = flrc::allocateRows(96, kInputs, Dtype::int8);
  flrc::BackendLayer layer{};
  for (flrc::BackendLinear& linear : layer.projections) linear = factors.linear;
  flrc::BackendModel model{};
  model.layers = 1;
  model.hidden = kInputs;
  model.headDim = 8;
  flrc::BackendRope rope{4, nullptr, 1};
  model.ropes = &rope;
  model.ropeCount = 1;
  model.embedding = model.head = rowsOf(embedding);
  model.layer = &layer;
  const LinearWeights weights(factors.linear);
  uint64_t held = 0;
  for (const BlockWeights& block : weights.blocks) {
    for (const auto* bytes : {&block.p.data, &block.c.data}) held += bytes->bytes();
    held += block.c.scale.bytes();
    for (const auto* indices : {&block.pivot, &block.rest, &block.gather}) held += indices->bytes();
  }
  const RowWeights table(model.embedding);
  const uint64_t norms = (4 * kInputs + 2 * 8) * sizeof(float);
  CHECK_EQUAL(bytesOf(model), 7 * held + table.data.bytes() + norms);
  CHECK_EQUAL(limitOf(model), "");

  model.headDim = 12;
  CHECK(limitOf(model).find("heads of 8 to 256") != std::string::npos);
  model.headDim = 8;
  rope.pairs = 3;
  CHECK(limitOf(model).find("an even number of pairs") != std::string::npos);
  rope.pairs = 4;
  const Factors many(std::vector<int64_t>(9, 2), true, Dtype::bf16);
  layer.projections[3] = many.linear;
  CHECK(limitOf(model).find("up to 8 levels, and layer 0 has 9") != std::string::npos);
  const Factors wide({8}, true, Dtype::f32);
  layer.projections[3] = wide.linear;
  CHECK(limitOf(model).find("bf16, int8 and int4") != std::string::npos);
}
