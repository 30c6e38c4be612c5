#include "model/cpu_calibration.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "core/job.h"
#include "core/recycled.h"
#include "core/thread_pool.h"
#include "linalg/curves.h"
#include "linalg/factors.h"
#include "linalg/moments.h"
#include "linalg/pivot.h"
#include "model/guarded.h"
#include "model/model.h"

namespace flrc {

struct DeviceMoments {
  struct Task {
    size_t moment;
    int64_t tile;
  };

  int threads;
  std::vector<MomentSum> sums;
  std::vector<Task> tasks;
  Recycled<std::vector<float>> products;
};

struct DeviceCurves {
  int64_t n;
  std::vector<BackendCurve> of;
};

namespace {}  // namespace

BackendCode cpuCreateMoments(DeviceModel* model, const int64_t* widths, double* const* sums, int64_t count,
                             DeviceMoments** out, BackendFailure* failure) {
  return guarded(failure, [&] {
    auto made = std::make_unique<DeviceMoments>();
    made->threads = modelOf(model).threads;
    for (int64_t i = 0; i < count; ++i) {
      made->sums.emplace_back(widths[i], sums[i]);
      for (int64_t tile = 0; tile < made->sums.back().tiles(); ++tile)
        made->tasks.push_back({static_cast<size_t>(i), tile});
    }
    *out = made.release();
  });
}

void cpuReleaseMoments(DeviceMoments* moments) { delete moments; }

BackendCode cpuAddMoments(DeviceMoments* moments, const float* const* x, int64_t tokens,
                          const BackendCancel* cancel, BackendFailure* failure) {
  return guarded(failure, [&] {
    const auto tasks = std::ssize(moments->tasks);
    ThreadPool::shared().parallelFor(tasks, moments->threads, [&](int64_t index) {
      jobOf(cancel).check();
      auto product = moments->products.take();
      const auto [moment, tile] = moments->tasks[static_cast<size_t>(index)];
      moments->sums[moment].addTile(tile, x[moment], tokens, *product);
    });
  });
}

BackendCode cpuFinishMoments(DeviceMoments*, const BackendCancel*, BackendFailure*) { return BackendCode::ok; }

BackendCode cpuFactorize(DeviceModel*, const BackendFactoring* from, const BackendCancel* cancel,
                         BackendFailure* failure) {
  return guarded(failure, [&] {
    FactorOptions options;
    options.jitter = from->jitter;
    options.rank = from->rank;
    options.randomised = from->randomised;
    options.oversampling = from->oversampling;
    options.powerIterations = from->powerIterations;
    options.seed = from->seed;
    const NestedFactors factors =
        nestedFactors(from->w, from->m, from->n, {from->n, from->inputs}, {from->m, from->gradients}, options,
                      jobOf(cancel), {std::min(from->m, from->n), from->seen});
    std::copy(factors.u.begin(), factors.u.end(), from->u);
    std::copy(factors.v.begin(), factors.v.end(), from->v);
    std::copy(factors.singular.begin(), factors.singular.end(), from->singular);
  });
}

BackendCode cpuCreateCurves(DeviceModel*, int64_t n, const BackendCurve* of, int64_t count, DeviceCurves** out,
                            BackendFailure* failure) {
  return guarded(failure, [&] { *out = new DeviceCurves{n, {of, of + count}}; });
}

void cpuReleaseCurves(DeviceCurves* curves) { delete curves; }

BackendCode cpuAddCurves(DeviceCurves* curves, const float* x, const float* const* g, int64_t tokens,
                         double* const* out, const BackendCancel* cancel, BackendFailure* failure) {
  return guarded(failure, [&] {
    for (size_t i = 0; i < curves->of.size(); ++i) {
      jobOf(cancel).check();
      const BackendCurve& of = curves->of[i];
      addTruncationCurve(x, g[i], of.u, of.v, of.w, tokens, of.m, curves->n, of.rank, out[i]);
    }
  });
}

BackendCode cpuPivotedQr(DeviceModel*, const float* u, int64_t s, int64_t m, double* r, int32_t* column,
                         int64_t* rank, const BackendCancel* cancel, BackendFailure* failure) {
  return guarded(failure, [&] { *rank = pivotedQr(u, s, m, r, column, jobOf(cancel)); });
}

}  // namespace flrc
