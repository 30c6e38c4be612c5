#pragma once

#include <cmath>

#include "kernels/device.cuh"

// Softmax over keys that come some at a time (Milakov and Gimelshein, Online normalizer calculation for
// softmax, 2018), in the fragments of tensor cores: a warp has 16 queries.

namespace flrc::gpu {

// What a thread holds of its warp's 16 queries: rows lane / 4 and lane / 4 + 8.
template <int kDim>
struct Running {
  float out[kDim / 8][4] = {};
  float most[2] = {-HUGE_VALF, -HUGE_VALF};
  float total[2] = {};
};

// Scores of some keys become weights relative to the largest so far; what was there is brought to the same
// scale. `first` and `key`: positions of the warp's first query and of the first key; `scale`: of scores, times
// log2(e), for weights are powers of two.
template <int kFragments, int kDim>
FLRC_DEVICE void weigh(float (&scores)[kFragments][4], int first, int key, int window, float scale,
                       Running<kDim>& running) {
  constexpr int kKeys = 8 * kFragments;
  const int lane = laneIndex();
  // Whether all of the warp's queries see all of the keys.
  const bool open = key + kKeys - 1 <= first && (window == 0 || key > first + 15 - window);
  FLRC_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int query = first + lane / 4 + 8 * half;
    float most = running.most[half];
    FLRC_UNROLL
    for (int j = 0; j < kFragments; ++j) {
      FLRC_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int at = key + 8 * j + lane % 4 * 2 + e;
        float& score = scores[j][2 * half + e];
        const bool visible = open || (at <= query && (window == 0 || at > query - window));
        score = visible ? score * scale : -HUGE_VALF;
        most = fmaxf(most, score);
      }
    }
    most = fmaxf(most, shuffleXor(most, 1));
    most = fmaxf(most, shuffleXor(most, 2));
    // A row of which nothing is visible yet has no scale.
    const float base = most == -HUGE_VALF ? 0.0f : most, shrink = exp2f(running.most[half] - base);
    float total = 0;
    FLRC_UNROLL
    for (int j = 0; j < kFragments; ++j) {
      FLRC_UNROLL
      for (int e = 0; e < 2; ++e) {
        float& score = scores[j][2 * half + e];
        score = exp2f(score - base);
        total += score;
      }
    }
    running.most[half] = most;
    running.total[half] = fusedMultiplyAdd(running.total[half], shrink, total);
    FLRC_UNROLL
    for (int d = 0; d < kDim / 8; ++d) {
      running.out[d][2 * half] *= shrink;
      running.out[d][2 * half + 1] *= shrink;
    }
  }
}

// The sum of all weights of a row.
template <int kDim>
FLRC_DEVICE float totalOf(const Running<kDim>& running, int half) {
  float total = running.total[half];
  total += shuffleXor(total, 1);
  return total + shuffleXor(total, 2);
}

}  // namespace flrc::gpu
