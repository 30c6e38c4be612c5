#include "kernels/calibrate.h"
#include "runtime/device_limits.h"
#include "runtime/fisher_scores.h"

namespace flrc::gpu {
namespace {

template <typename T>
void grow(Buffer<T>& buffer, size_t count) {
  if (buffer.count() < count) buffer = Buffer<T>(count);
}

}  // namespace

void FisherScores::score(int64_t projection, const float* x, const float* g, int64_t tokens, double* sums) {
  const LinearWeights& linear = model.layers[static_cast<size_t>(projection / kBackendProjections)]
                                    .projections[projection % kBackendProjections];
  if (linear.factored) throw Failure(BackendCode::internal, "a Fisher score needs a dense projection");
  const auto activations = [&](const float* from, int64_t width, Buffer<uint16_t>& to) {
    const int64_t ld = (width + 7) / 8 * 8;
    grow(to, static_cast<size_t>(tokens * ld));
    rounded_.assign(to.count(), 0);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < width; ++i) {
        rounded_[static_cast<size_t>(t * ld + i)] = floatToBf16(from[t * width + i]);
      }
    }
    model.queue.upload(to, rounded_.data());
    return Activations{to.read(), ld, static_cast<int>(width)};
  };
  const RowWeights& rows = linear.dense;
  FisherParams params{};
  params.x = activations(x, linear.inputs, x_);
  params.g = activations(g, linear.outputs, g_);
  params.passage = {1, static_cast<int>(tokens)};
  params.weights = rows.data.read();
  params.scale = rows.scale.read();
  params.zero = rows.zero.read();
  grow(partial_, static_cast<size_t>(fisherPartials(params)));
  params.partial = partial_.global();
  params.sums = sums_.global();
  const double zeros[3] = {};
  model.queue.upload(sums_, zeros);
  launchFisher(model.queue.stream(), rows.dtype, params, currentDevice().warpgroups);
  model.queue.download(sums_, 0, 3, sums);
}

}  // namespace flrc::gpu
