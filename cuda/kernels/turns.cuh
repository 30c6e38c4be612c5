#pragma once

#include <cmath>

#include "kernels/eigen.h"
#include "kernels/warp.cuh"

// Jacobi rotations of pairs of rows.

namespace flrc::gpu {

struct RowPair {
  int first, second;
};

// Players 0..n-1 (n even) meet everybody in n - 1 rounds: the last stays, the others go round.
FLRC_DEVICE RowPair pairOf(int round, int index, int n) {
  const int a = index == 0 ? n - 1 : (round + index) % (n - 1), b = (round + n - 1 - index) % (n - 1);
  return {a < b ? a : b, a < b ? b : a};
}

// Makes two rows orthogonal, by half the angle whose tangent is 2 xy / (xx - yy). The longer one becomes
// longer, and ends in the first place: rows that fall in length are what the fewest sweeps begin with.
struct Turn {
  double most, least, moved;
  bool swapped;

  FLRC_DEVICE Turn(double xx, double xy, double yy) : swapped(xx < yy) {
    const double apart = fabs(xx - yy), over = inverseRoot(fusedMultiplyAdd(apart, apart, 4 * xy * xy));
    const double square = 0.5 + 0.5 * apart * over, root = inverseRoot(square);
    most = square * root;
    least = xy * over * root;
    moved = xy * least * root;
  }
  FLRC_DEVICE double first(double a, double b) const {
    return swapped ? least * a + most * b : most * a + least * b;
  }
  FLRC_DEVICE double second(double a, double b) const {
    return swapped ? most * a - least * b : most * b - least * a;
  }
  // The squares of their lengths.
  FLRC_DEVICE double firstSquare(double xx, double yy) const { return (swapped ? yy : xx) + moved; }
  FLRC_DEVICE double secondSquare(double xx, double yy) const { return (swapped ? xx : yy) - moved; }
};

// Whether they are not orthogonal to a cosine of `enough`.
FLRC_DEVICE bool isTurned(double xx, double xy, double yy, double enough) {
  return xy * xy > enough * enough * xx * yy;
}

// What has nothing becomes next to nothing, of whose square the square still is a number.
FLRC_DEVICE double orNothing(double length) { return length > 0 ? length : 1e-100; }

// Row `row` of those that ended as eigenvectors, to its place by length, by one warp. `squares` [n] of all
// lengths.
template <typename Squares, typename Row>
FLRC_DEVICE void placeRow(const EigenParams& p, Squares squares, Row values, int row) {
  const double value = squares[row], over = 1 / sqrt(value);
  int before = 0;
  for (int i = laneIndex(); i < p.n; i += 32) {
    const double other = squares[i];
    before += other > value || (other == value && i < row) ? 1 : 0;
  }
  const int64_t to = static_cast<int64_t>(blockZ()) * p.n + warpSum(before);
  if (laneIndex() == 0) p.values[to] = p.shift != nullptr ? value - p.shift[blockZ()] : value;
  for (int i = laneIndex(); i < p.n; i += 32) p.vectors[to * p.n + i] = values[i] * over;
}

}  // namespace flrc::gpu
