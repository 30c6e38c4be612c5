#pragma once

#include <mutex>
#include <vector>

#include "runtime/split_rows.h"

namespace flrc {

// The contract's handle: what truncation curves of projections with one input are computed from.
struct DeviceCurves {
  DeviceCurves(int64_t n, const BackendCurve* of, int64_t count);
  // Of the device, for these.
  static double bytesOf(int64_t n, const BackendCurve* of, int64_t count);

  void add(const float* x, const float* const* g, int64_t tokens, double* const* out,
           const BackendCancel& cancel);
  // One sequence of the projection at `index`, whose rows are on the device; one call at a time.
  void add(gpu::Pieces& pieces, size_t index, gpu::Global<const float> x, gpu::Global<const float> g,
           int64_t tokens);
  // Adds what has been added up of it to out [rank + 1] on the host.
  void take(gpu::Pieces& pieces, size_t index, double* out);

 private:
  struct One {
    One(const BackendCurve& curve, int64_t n)
        : of(curve),
          u(of.rank, of.m),
          v(of.rank, n),
          w(of.w ? of.m : 0, n),
          curve(static_cast<size_t>(of.rank + 1)) {}

    BackendCurve of;
    gpu::SplitRows u, v, w;
    gpu::Buffer<double> curve;
  };

  void load(gpu::Pieces& pieces);
  // Of tokens whose inputs have been split.
  void add(gpu::Pieces& pieces, const One& one, gpu::Global<const float> g, int64_t tokens);

  int64_t n_, tokens_;  // tokens at a time
  std::vector<One> ones_;
  bool loaded_ = false;
  std::mutex mutex_;  // of all below
  gpu::SplitRows x_, g_;
  gpu::Buffer<float> staged_, gradients_, ug_, vx_, wx_, whole_;
  gpu::Buffer<double> partial_;
  std::vector<double> part_;
};

}  // namespace flrc
