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

}  // namespace

TEST("linears: y = W x of every dtype and form, however much is staged") {
  const LinearsLaunch ways[] = {
      {.blocks = 3, .stagedBytes = 0},
      {.blocks = 2, .stagedBytes = 6000},
      {.blocks = 4, .stagedBytes = 3000, .bulk = true, .dependent = true, .aheadBytes = 4000},
      {.blocks = 1, .stagedBytes = 60000, .bulk = true}};
  uint64_t seed = 1;
  for (const LinearCase& one : linearCases()) {
    for (const LinearsLaunch& how : ways) checkCase(one, 1, how, ++seed);
    for (const int columns : {2, 7}) {
      ++seed;
      checkCase(one, columns, ways[seed % 4], seed);
    }
  }
}

TEST("linears: a column has the same bits in any batch, staged or not, on any number of blocks") {
  for (const LinearCase& one : linearCases()) {
    LinearProblem problem(one, 5);
    Device device(5);
    check::Random random(6);
    const std::vector<float> x = random.floats(int64_t{kMaxColumns} * one.inputs);
    const LinearsLaunch how{.blocks = 3, .stagedBytes = 2048, .bulk = true};
    const auto all = problem.run(device, x, kMaxColumns, how);
    for (const auto& [first, columns] : {std::pair{0, 1}, {11, 1}, {4, 3}, {2, 9}}) {
      const std::vector<float> part(x.begin() + first * one.inputs, x.begin() + (first + columns) * one.inputs);
      const auto y = problem.run(device, part, columns, {.blocks = 5, .stagedBytes = columns == 3 ? 0 : 9000});
      for (size_t p = 0; p < y.size(); ++p) {
        const auto outputs = static_cast<size_t>(problem.outputs(p));
        CHECK(std::memcmp(y[p].data(), all[p].data() + static_cast<size_t>(first) * outputs,
                          y[p].size() * sizeof(float)) == 0);
      }
    }
  }
}

#ifndef __CUDACC__
TEST("barriers: linears") {
  for (const bool bulk : {false, true}) {
    const LinearCase one{flrc::Dtype::bf16, 2100, {{70, Form::pivoted, {20, 9}, 2}}};
    CHECK_EVERY_BARRIER([&](Device& device) {
      check::Random random(7);
      const std::vector<float> x = random.floats(8 * int64_t{one.inputs});
      LinearProblem problem(one, 7);
      std::string bytes;
      for (const auto& y : problem.run(device, x, 8, {.blocks = 2, .stagedBytes = 4096, .bulk = bulk})) {
        bytes.append(reinterpret_cast<const char*>(y.data()), y.size() * sizeof(float));
      }
      return bytes;
    });
  }
}
#endif
