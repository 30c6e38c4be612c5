#include "calibrate/factorize.h"

#include <algorithm>
#include <atomic>
#include <string>

#include "core/error.h"
#include "core/thread_pool.h"
#include "linalg/pivot.h"
#include "model/wide_layer.h"
#include "model/window_losses.h"

namespace flrc {
namespace {

// Entries of C stay below this, so that bf16 and int8 hold them well (design 3).
constexpr double kPivotBound = 2.0;

// Ranks at which blocks end, lowest level first, without repeats.
std::vector<int64_t> blockEnds(const FactorizeOptions& options, size_t projection) {
  std::vector<int64_t> ends;
  for (auto level = options.levels.rbegin(); level != options.levels.rend(); ++level) {
    const int64_t rank = (*level)[projection];
    if (rank > (ends.empty() ? 0 : ends.back())) ends.push_back(rank);
  }
  return ends;
}

// How many projections may be cut at once: as many of the largest as the calibration's memory has room for.
int cutsAtOnce(const Calibration& calibration, const FactorizeOptions& options) {
  const Model& model = *calibration.model;
  int64_t largest = 1;
  for (int64_t i = 0; i < model.projectionCount(); ++i) {
    const Linear& linear = model.projection(i);
    const int64_t rank = options.levels[0][static_cast<size_t>(i)];
    if (rank > 0) largest = std::max(largest, pivotBytes(linear.outputs, linear.inputs, rank));
  }
  return static_cast<int>(std::clamp<int64_t>(calibration.memory / largest, 1, model.threads));
}

class Cutter {
 public:
  Cutter(const Calibration& calibration, const FactorizeOptions& options, const Job& job)
      : calibration_(calibration), options_(options), job_(job) {}

  void cut(int64_t index, Linear& linear) const {
    const auto at = static_cast<size_t>(index);
    std::vector<float> uScratch, vScratch;
    const float* u = calibration_.factors->get(at * 2, uScratch);
    const float* v = calibration_.factors->get(at * 2 + 1, vScratch);
    const int64_t m = linear.outputs, n = linear.inputs;
    linear.dense = nullptr;
    linear.pivoted = options_.pivoted;
    const std::vector<int64_t> ends = blockEnds(options_, at);
    if (!options_.pivoted) {
      if (ends.empty()) return;
      auto block = std::make_shared<FactorBlock>();
      block->p = makeRows(v, ends.back(), n, n, options_.dtype);
      block->c = makePanels(u, ends.back(), m, m, options_.dtype);
      linear.blocks.push_back(std::move(block));
      return;
    }
    int64_t begin = 0;
    for (int64_t end : ends) {
      job_.check();
      const int64_t s = end - begin;
      PivotedBlock pivoted = pivotBlock(u + begin * m, v + begin * n, s, m, n, kPivotBound, job_);
      auto block = std::make_shared<FactorBlock>();
      block->p = makeRows(pivoted.p.data(), s, n, n, options_.dtype);
      block->c = makePanels(pivoted.c.data(), s, m - s, m - s, options_.dtype);
      block->pivot = std::move(pivoted.pivot);
      finishBlock(*block, m);
      linear.blocks.push_back(std::move(block));
      begin = end;
    }
  }

 private:
  const Calibration& calibration_;
  const FactorizeOptions& options_;
  const Job& job_;
};

void check(const Calibration& calibration, const FactorizeOptions& options) {
  const auto count = static_cast<size_t>(calibration.model->projectionCount());
  if (options.levels.empty()) throw Error(code::internal, "a compressed model needs at least one level");
  for (size_t l = 0; l < options.levels.size(); ++l) {
    if (options.levels[l].size() != count)
      throw Error(code::internal, "a level does not name every projection");
    for (size_t i = 0; i < count; ++i) {
      const int32_t rank = options.levels[l][i];
      const int32_t above = l == 0 ? rank : options.levels[l - 1][i];
      const bool dense = options.levels[0][i] == -1;
      if (dense ? rank != -1 : rank < 0 || rank > above || rank > calibration.ranks[i]) {
        throw Error(
            code::internal,
            "level " + std::to_string(l) + " has rank " + std::to_string(rank) + " for " +
                projectionName(static_cast<int64_t>(i) / kProjections, static_cast<int>(i % kProjections)));
      }
    }
  }
}

}  // namespace

std::shared_ptr<const Model> factorize(const Calibration& calibration, const FactorizeOptions& options,
                                       const Job& job) {
  check(calibration, options);
  const Model& source = *calibration.model;
  auto model = std::make_shared<Model>(source);
  model->dtype = options.dtype;
  model->levels = options.levels;
  const bool tied = source.head == source.embedding;
  const Dtype wide = embeddingDtype(options.dtype);
  model->embedding = converted(source.embedding, wide, source.threads);
  model->head = tied ? model->embedding : converted(source.head, wide, source.threads);

  const Cutter cutter(calibration, options, job);
  std::atomic<int64_t> done{0};
  const int64_t count = source.projectionCount();
  ThreadPool::shared().parallelFor(count, cutsAtOnce(calibration, options), [&](int64_t i) {
    job.check();
    Linear& linear = model->layers[static_cast<size_t>(i / kProjections)].projections[i % kProjections];
    if (options.levels[0][static_cast<size_t>(i)] < 0) {
      linear.dense = converted(linear.dense, options.dtype, source.threads);
    } else {
      cutter.cut(i, linear);
    }
    job.report("factorize", done.fetch_add(1) + 1, count);
  });
  return model;
}

std::vector<double> cutLosses(const Calibration& calibration, int64_t projection,
                              const std::vector<int32_t>& ranks, bool pivoted,
                              const std::vector<int32_t>& tokens, int64_t seqLen, const Job& job) {
  const Model& source = *calibration.model;
  const int64_t count = source.projectionCount();
  if (projection < 0 || projection >= count) throw Error(code::internal, "there is no such projection to cut");
  // Any other type would be a copy of every dense projection.
  FactorizeOptions options{{std::vector<int32_t>(static_cast<size_t>(count), -1)}, pivoted, source.dtype};
  const Job silent;
  const auto cutTo = [&](int64_t i) {
    options.levels[0][static_cast<size_t>(projection)] = ranks[static_cast<size_t>(i)];
    return factorize(calibration, options, silent);
  };
  return variantLosses(source, projection / kProjections, static_cast<int64_t>(ranks.size()), cutTo, tokens,
                       seqLen, job);
}

}  // namespace flrc
