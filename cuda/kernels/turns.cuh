#pragma once

#include <cmath>

#include "kernels/device.cuh"

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

inline constexpr int kMostSweeps = 40;

}  // namespace flrc::gpu
