#include "calibrate/factorize.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <string>

#include "calibrate/device_work.h"
#include "core/error.h"
#include "core/thread_pool.h"
#include "linalg/pivot.h"
#include "model/wide_layer.h"
#include "model/window_losses.h"
#include "quantise/block.h"

namespace flrc {
namespace {

// Entries of C stay below this, so that bf16 and int8 hold them well (design 3).
constexpr double kPivotBound = 2.0;
// Of the inputs' moments, for rounding against them.
constexpr double kInputDamping = 1e-2;

// Ranks at which blocks end, lowest level first, without repeats.
std::vector<int64_t> blockEnds(const FactorizeOptions& options, size_t projection) {
  std::vector<int64_t> ends;
  for (auto level = options.levels.rbegin(); level != options.levels.rend(); ++level) {
    const int64_t rank = (*level)[projection];
    if (rank > (ends.empty() ? 0 : ends.back())) ends.push_back(rank);
  }
  return ends;
}

// Whether what is cut is rounded against the inputs' moments. Where the calibration kept none, and for a type
// that needs no grid, values are taken as they are, to the nearest.
bool roundsAgainstMoments(const Calibration& calibration, const FactorizeOptions& options) {
  return calibration.inputMoments && (options.dtype == Dtype::int8 || options.dtype == Dtype::int4);
}

// How many projections may be cut at once: as many of the largest as the calibration's memory has room for.
int cutsAtOnce(const Calibration& calibration, const FactorizeOptions& options) {
  const Model& model = *calibration.model;
  const bool rounds = roundsAgainstMoments(calibration, options);
  int64_t largest = 1;
  for (int64_t i = 0; i < model.projectionCount(); ++i) {
    const Linear& linear = model.projection(i);
    const int64_t m = linear.outputs, n = linear.inputs;
    const int64_t rank = std::max<int32_t>(0, options.levels[0][static_cast<size_t>(i)]);
    if (rank > 0) largest = std::max(largest, pivotBytes(m, n, rank));
    if (rounds) largest = std::max(largest, roundBytes(m, n, rank));
  }
  return static_cast<int>(std::clamp<int64_t>(calibration.memory / largest, 1, model.threads));
}

RowMatrix storedRows(const std::vector<StoredRow>& from, int64_t cols, Dtype dtype) {
  RowMatrix matrix = allocateRows(std::ssize(from), cols, dtype);
  for (int64_t i = 0; i < matrix.rows; ++i) {
    loadRows(matrix, i, 1, from[static_cast<size_t>(i)]);
  }
  return matrix;
}

PanelMatrix storedPanels(const std::vector<StoredRow>& from, int64_t outputs, Dtype dtype) {
  PanelMatrix matrix = allocatePanels(std::ssize(from), outputs, dtype);
  for (int64_t j = 0; outputs > 0 && j < matrix.rank; ++j) {
    loadRanks(matrix, j, 1, from[static_cast<size_t>(j)]);
  }
  return matrix;
}

class Cutter {
 public:
  Cutter(const Calibration& calibration, const FactorizeOptions& options, const Job& job)
      : calibration_(calibration),
        options_(options),
        job_(job),
        work_(*calibration.model, job),
        rounds_(roundsAgainstMoments(calibration, options)) {}

  void cut(int64_t index, Linear& linear) const {
    const auto at = static_cast<size_t>(index);
    std::vector<float> uScratch, vScratch;
    const float* u = calibration_.factors->get(at * 2, uScratch);
    const float* v = calibration_.factors->get(at * 2 + 1, vScratch);
    const int64_t m = linear.outputs, n = linear.inputs;
    linear.dense = nullptr;
    linear.pivoted = options_.pivoted;
    const std::vector<int64_t> ends = blockEnds(options_, at);
    if (ends.empty()) return;
    Rounding rounding;
    if (rounds_) rounding = {inputMetric(index), std::vector<double>(static_cast<size_t>(m * n))};
    if (!options_.pivoted) {
      linear.blocks.push_back(plainBlock(u, v, m, n, ends, rounding));
      return;
    }
    int64_t begin = 0;
    for (int64_t end : ends) {
      job_.check();
      linear.blocks.push_back(pivotedBlock(u + begin * m, v + begin * n, end - begin, m, n, rounding));
      begin = end;
    }
  }

  std::shared_ptr<const RowMatrix> dense(int64_t index, const std::shared_ptr<const RowMatrix>& from) const {
    // What is of that type already lies on its grid.
    if (!rounds_ || from->dtype == options_.dtype) {
      return converted(from, options_.dtype, calibration_.model->threads);
    }
    const std::vector<float> wide = widenRows(*from, 1);
    const std::vector<double> w(wide.begin(), wide.end());
    const RoundedMatrix rounded =
        roundRows(w, from->rows, from->cols, options_.dtype, inputMetric(index), job_);
    return std::make_shared<RowMatrix>(storedRows(rounded.rows, from->cols, options_.dtype));
  }

 private:
  // What rounding a projection's blocks one after another goes by.
  struct Rounding {
    Metric input;
    std::vector<double> owed;  // see roundFactors
  };

  // A checkpoint of several blocks holds each rounded so as to mend those below it.
  std::shared_ptr<const FactorBlock> pivotedBlock(const float* u, const float* v, int64_t s, int64_t m,
                                                  int64_t n, Rounding& rounding) const {
    const PivotedQr qr = [&](auto... arguments) { return work_.pivotedQr(arguments...); };
    PivotedBlock pivoted = pivotBlock(u, v, s, m, n, kPivotBound, job_, qr);
    auto block = std::make_shared<FactorBlock>();
    if (rounds_) {
      const RoundedBlock rounded = roundFactors(pivoted, options_.dtype, rounding.input, rounding.owed, job_);
      block->p = storedRows(rounded.p.rows, n, options_.dtype);
      block->c = storedPanels(rounded.c.rows, m - s, options_.dtype);
    } else {
      block->p = makeRows(pivoted.p.data(), s, n, n, options_.dtype);
      block->c = makePanels(pivoted.c.data(), s, m - s, m - s, options_.dtype);
    }
    block->pivot = std::move(pivoted.pivot);
    finishBlock(*block, m);
    return block;
  }

  // Plain factors are one block, rounded level by level, so that every level is as good as can be.
  std::shared_ptr<const FactorBlock> plainBlock(const float* u, const float* v, int64_t m, int64_t n,
                                                const std::vector<int64_t>& ends, Rounding& rounding) const {
    auto block = std::make_shared<FactorBlock>();
    if (!rounds_) {
      block->p = makeRows(v, ends.back(), n, n, options_.dtype);
      block->c = makePanels(u, ends.back(), m, m, options_.dtype);
      return block;
    }
    std::vector<StoredRow> p, c;
    int64_t begin = 0;
    for (int64_t end : ends) {
      job_.check();
      const PivotedBlock pair = {m, n, end - begin, {v + begin * n, v + end * n}, {u + begin * m, u + end * m},
                                 {}};
      const RoundedBlock rounded = roundFactors(pair, options_.dtype, rounding.input, rounding.owed, job_);
      p.insert(p.end(), rounded.p.rows.begin(), rounded.p.rows.end());
      c.insert(c.end(), rounded.c.rows.begin(), rounded.c.rows.end());
      begin = end;
    }
    block->p = storedRows(p, n, options_.dtype);
    block->c = storedPanels(c, m, options_.dtype);
    return block;
  }

  Metric inputMetric(int64_t index) const {
    const int projection = static_cast<int>(index % kProjections);
    PackedSymmetric a(calibration_.model->projection(index).inputs);
    std::vector<float> scratch;
    const float* packed = calibration_.inputMoments->get(
        static_cast<size_t>(momentSlot(index / kProjections, projection)), scratch);
    std::copy_n(packed, a.values.size(), a.values.begin());
    return makeMetric(a, kInputDamping, kGroup, job_);
  }

  const Calibration& calibration_;
  const FactorizeOptions& options_;
  const Job& job_;
  const DeviceWork work_;
  const bool rounds_;
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

// `onCut` hears of every projection that is done, from any thread.
std::shared_ptr<const Model> cutModel(const Calibration& calibration, const FactorizeOptions& options,
                                      const Job& job,
                                      const std::function<void(int64_t done, int64_t total)>& onCut) {
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
      linear.dense = cutter.dense(i, linear.dense);
    } else {
      cutter.cut(i, linear);
    }
    onCut(done.fetch_add(1) + 1, count);
  });
  return model;
}

}  // namespace

std::shared_ptr<const Model> factorize(const Calibration& calibration, const FactorizeOptions& options,
                                       const Job& job) {
  return cutModel(calibration, options, job,
                  [&](int64_t done, int64_t total) { job.report("factorize", done, total); });
}

std::vector<double> cutLosses(const Calibration& calibration, int64_t projection,
                              const std::vector<int32_t>& ranks, bool pivoted,
                              const std::vector<int32_t>& tokens, int64_t seqLen, const Job& job) {
  const Model& source = *calibration.model;
  const int64_t count = source.projectionCount();
  if (projection < 0 || projection >= count) throw Error(code::internal, "there is no such projection to cut");
  // Any other type would be a copy of every dense projection.
  FactorizeOptions options{{std::vector<int32_t>(static_cast<size_t>(count), -1)}, pivoted, source.dtype};
  // What is told is how many cuts were measured.
  const auto untold = [](int64_t, int64_t) {};
  const auto cutTo = [&](int64_t i) {
    options.levels[0][static_cast<size_t>(projection)] = ranks[static_cast<size_t>(i)];
    return cutModel(calibration, options, job, untold);
  };
  return variantLosses(source, projection / kProjections, static_cast<int64_t>(ranks.size()), cutTo, tokens,
                       seqLen, job);
}

}  // namespace flrc
