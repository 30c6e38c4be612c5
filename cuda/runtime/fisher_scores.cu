#include "kernels/calibrate.h"
#include "runtime/fisher_scores.h"

namespace flrc::gpu {

void FisherScores::score(int64_t projection, int64_t count, const float* x, const float* const* g,
                         int64_t tokens, double (*sums)[3], const BackendCancel& cancel) {
  std::lock_guard<std::mutex> working(mutex_);
  Pieces pieces(cancel);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = projection + i;
    const LinearWeights& linear =
        model.layers[static_cast<size_t>(at / kBackendProjections)].projections[at % kBackendProjections];
    if (linear.factored) throw Failure(BackendCode::internal, "a Fisher score needs a dense projection");
    if (i == 0) x_.load(pieces, x, tokens, linear.inputs);
    g_.load(pieces, g[i], tokens, linear.outputs);
    score(pieces, linear, tokens, sums[i]);
  }
}

void FisherScores::score(Pieces& pieces, const LinearWeights& linear, int64_t tokens, double* sums) {
  const RowWeights& rows = linear.dense;
  FisherParams params{};
  params.x = x_.high();
  params.g = g_.high();
  params.passage = {1, static_cast<int>(tokens)};
  params.weights = rows.data.read();
  pieces.grow(partial_, static_cast<size_t>(fisherPartials(params)));
  params.partial = partial_.global();
  params.sums = sums_.global();
  pieces.clear(sums_);
  launchFisher(pieces.stream(), rows.dtype, params, model.limits.warpgroups);
  pieces.download(sums_, 0, sums, 3);
}

}  // namespace flrc::gpu
