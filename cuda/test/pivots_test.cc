// kernels/pivots.h: pivots and coefficients against what defines them.

#include "kernels/pivots.h"

#include "test/device.h"
#include "test/matrices.h"

using namespace flrc::gpu;
using test::Array;
using test::Device;
using test::randoms;
using test::View;
using test::view;

TEST("factorize: pivots fall in length, and all columns are made of theirs") {
  struct Shape {
    int rows, width, rank;
  };
  for (const auto& [rows, width, rank] :
       {Shape{6, 40, 6}, Shape{20, 20, 20}, Shape{12, 300, 7}, Shape{1, 5, 1}}) {
    check::Random random(static_cast<uint64_t>(width));
    std::vector<double> u = randoms(random, 2 * rows * width);
    for (int matrix = 0; matrix < 2; ++matrix) {
      for (int i = rank; i < rows; ++i) {
        for (int j = 0; j < width; ++j) {
          u[static_cast<size_t>((matrix * rows + i) * width + j)] =
              u[static_cast<size_t>((matrix * rows + i - rank) * width + j)];
        }
      }
    }
    const auto values = static_cast<size_t>(2 * rows * width);
    Array<double> in(u), r(values), basis(static_cast<size_t>(2 * rows * rows)),
        norms(static_cast<size_t>(2 * width)), z(values);
    Array<int32_t> order(static_cast<size_t>(2 * rows)), ranks(size_t{2});
    Device device(7);
    launchPivotedQr(
        device.stream(),
        {in.global(), r.global(), basis.global(), norms.global(), order.global(), ranks.global(), rows, width},
        2);
    launchCoefficients(device.stream(), {r.global(), order.global(), ranks.global(), z.global(), rows, width},
                       2);
    device.synchronise();
    const std::vector<double> factor = r.download(), all = z.download();
    for (int b = 0; b < 2; ++b) {
      CHECK_EQUAL(ranks.at(static_cast<size_t>(b)), rank);
      const View upper = view(factor, b, rows, width), c = view(all, b, rows, width),
                 m = view(u, b, rows, width);
      const auto pivot = [&](int i) { return order.at(static_cast<size_t>(b * rows + i)); };
      for (int i = 0; i < rank; ++i) {
        const double length = upper.at(i, pivot(i));
        CHECK(length > 0);
        if (i > 0) CHECK_AT_MOST(length, upper.at(i - 1, pivot(i - 1)) * (1 + 1e-12));
        for (int l = i + 1; l < rank; ++l) CHECK(pivot(i) != pivot(l));
        // The longest that is left was chosen.
        for (int j = 0; j < width; ++j) {
          double left = 0;
          for (int l = i; l < rank; ++l) left += upper.at(l, j) * upper.at(l, j);
          CHECK_AT_MOST(std::sqrt(left), length * (1 + 1e-10));
        }
      }
      for (int j = 0; j < width; ++j) {
        double most = 1;
        for (int l = 0; l < rank; ++l) most += std::abs(c.at(l, j));
        for (int i = 0; i < rows; ++i) {
          double sum = 0;
          for (int l = 0; l < rank; ++l) sum += m.at(i, pivot(l)) * c.at(l, j);
          CHECK_NEAR(sum, m.at(i, j), 1e-10 * most);
        }
      }
    }
  }
}
