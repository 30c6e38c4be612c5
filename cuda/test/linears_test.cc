// kernels/linears.h against fp64: y = W x dense, of plain factors and of pivoted blocks.

#include <cstring>

#include "test/barriers.h"
#include "test/linear_cases.h"

using namespace test;
using flrc::gpu::kMaxColumns;
using flrc::gpu::LinearsLaunch;

namespace {

void checkCase(const LinearCase& one, int columns, const LinearsLaunch& how, uint64_t seed) {
  LinearProblem problem(one, seed);
  Device device(seed);
  check::Random random(seed + 1);
  const std::vector<float> x = random.floats(int64_t{columns} * one.inputs);
  const auto y = problem.run(device, x, columns, how);
  for (size_t p = 0; p < y.size(); ++p) {
    const auto outputs = static_cast<size_t>(problem.outputs(p));
    for (int c = 0; c < columns; ++c) {
      const auto exact = problem.exact(p, x.data() + int64_t{c} * one.inputs);
      for (size_t o = 0; o < outputs; ++o) {
        CHECK_NEAR(y[p][static_cast<size_t>(c) * outputs + o], exact.y[o],
                   problem.roundings(p) * 0x1p-24 * exact.magnitude[o]);
      }
    }
  }
}

void checkForms(flrc::Dtype dtype) {
  const LinearsLaunch ways[] = {
      {.blocks = 3, .sharedBytes = 227 * 1024},
      {.blocks = 2, .sharedBytes = 99 * 1024},
      {.blocks = 4, .sharedBytes = 227 * 1024, .bulk = true, .aheadBytes = 4000, .dependent = true},
      {.blocks = 1, .sharedBytes = 163 * 1024, .bulk = true, .aheadBytes = 60000}};
  uint64_t seed = 1;
  for (const LinearCase& one : linearCases(dtype)) {
    for (const LinearsLaunch& how : ways) checkCase(one, 1, how, ++seed);
    for (const int columns : {2, 7}) {
      ++seed;
      checkCase(one, columns, ways[seed % 4], seed);
    }
  }
}

void checkBatches(flrc::Dtype dtype) {
  for (const LinearCase& one : linearCases(dtype)) {
    LinearProblem problem(one, 5);
    Device device(5);
    check::Random random(6);
    const std::vector<float> x = random.floats(int64_t{kMaxColumns} * one.inputs);
    const LinearsLaunch how{.blocks = 3, .sharedBytes = 227 * 1024, .bulk = true, .aheadBytes = 2048};
    const auto all = problem.run(device, x, kMaxColumns, how);
    for (const auto& [first, columns] : {std::pair{0, 1}, {11, 1}, {4, 3}, {2, 9}}) {
      const std::vector<float> part(x.begin() + first * one.inputs, x.begin() + (first + columns) * one.inputs);
      const auto y = problem.run(
          device, part, columns,
          {.blocks = 5, .sharedBytes = columns == 3 ? 99 * 1024 : 227 * 1024, .bulk = columns != 1});
      for (size_t p = 0; p < y.size(); ++p) {
        const auto outputs = static_cast<size_t>(problem.outputs(p));
        CHECK(std::memcmp(y[p].data(), all[p].data() + static_cast<size_t>(first) * outputs,
                          y[p].size() * sizeof(float)) == 0);
      }
    }
  }
}

}  // namespace

TEST("linears bf16: y = W x of every form, however little room there is") { checkForms(flrc::Dtype::bf16); }
TEST("linears int8: y = W x of every form, however little room there is") { checkForms(flrc::Dtype::int8); }
TEST("linears int4: y = W x of every form, however little room there is") { checkForms(flrc::Dtype::int4); }

TEST("linears bf16: a column has the same bits in any batch, much room or little, on any number of blocks") {
  checkBatches(flrc::Dtype::bf16);
}
TEST("linears int8: a column has the same bits in any batch, much room or little, on any number of blocks") {
  checkBatches(flrc::Dtype::int8);
}
TEST("linears int4: a column has the same bits in any batch, much room or little, on any number of blocks") {
  checkBatches(flrc::Dtype::int4);
}

#ifndef __CUDACC__
TEST("barriers: linears") {
  for (const flrc::Dtype dtype : {flrc::Dtype::bf16, flrc::Dtype::int4}) {
    const LinearCase one{dtype, 2100, {{70, Form::pivoted, {20, 9}, 2}}};
    CHECK_EVERY_BARRIER([&](Device& device) {
      check::Random random(7);
      const std::vector<float> x = random.floats(8 * int64_t{one.inputs});
      LinearProblem problem(one, 7);
      std::string bytes;
      for (const auto& y : problem.run(device, x, 8, {.blocks = 2, .sharedBytes = 227 * 1024, .bulk = true})) {
        bytes.append(reinterpret_cast<const char*>(y.data()), y.size() * sizeof(float));
      }
      return bytes;
    });
  }
}
#endif
