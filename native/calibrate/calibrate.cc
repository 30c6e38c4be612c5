#include "calibrate/calibrate.h"

#include <algorithm>

#include "calibrate/device_work.h"
#include "calibrate/kept_layers.h"
#include "calibrate/layer_moments.h"
#include "calibrate/text_passes.h"
#include "core/stopwatch.h"
#include "core/thread_pool.h"
#include "model/wide_layer.h"

namespace flrc {
namespace {

// The projections that share an input, one behind the other.
const std::vector<std::vector<int>> kByInput = {{kQ, kK, kV}, {kO}, {kGate, kUp}, {kDown}};
const std::vector<std::vector<int>> kTogether = {{kQ, kK, kV, kO, kGate, kUp, kDown}};

using Scratch = TextPasses::Scratch;

class Run {
 public:
  Run(std::shared_ptr<const Model> model, const CalibrationOptions& options, const Job& job,
      const MomentObserver& observer)
      : model_(std::move(model)),
        config_(model_->config),
        options_(options),
        job_(job),
        observer_(observer),
        pool_(ThreadPool::shared()),
        sequences_(static_cast<int64_t>(options.lengths.size())),
        result_(std::make_unique<Calibration>()) {
    longest_ = longestSequence(*model_, options_);
    const bool shrinks = options.shrinkage.inputs > 0 || options.shrinkage.gradients > 0;
    const MomentKinds kinds = momentKinds(options.whitening, options.keepInputMoments, shrinks);
    limits_ = layerLimits(config_, kinds, longest_, model_->threads, options.memory);
    space_ = std::make_shared<SpillSpace>(limits_.stores, options.scratch);
    const auto projections = static_cast<size_t>(model_->projectionCount());
    work_ = std::make_unique<DeviceWork>(*model_, job_);
    result_->model = model_;
    result_->scores.resize(projections);
    result_->curves.resize(projections);
    result_->singular.resize(projections);
    result_->ranks.resize(projections);
    result_->factors = std::make_unique<SpillStore>(space_, projections * 2);
    if (options.keepInputMoments) {
      result_->inputMoments =
          std::make_unique<SpillStore>(space_, static_cast<size_t>(config_.layers * kInputs));
    }
  }

  std::unique_ptr<Calibration> run() {
    passes_ = std::make_unique<TextPasses>(*model_, options_, *work_, space_, limits_.sequences, "calibrate");
    tapes_ = std::make_unique<Tapes>(options_.lengths, space_);
    const KeptLayers kept(options_, job_);
    const int64_t next = kept.next(config_.layers);
    // The layers to go on with need it, those that are kept do not.
    if (next >= 0) forward();
    kept.restore(next, *result_, passes_->gradients());
    for (int64_t l = next; l >= 0; --l) {
      visit(l);
      kept.keep(l, *result_, passes_->gradients());
      passes_->reportVisited(l);
    }
    sums_.reset();
    tapes_.reset();
    passes_.reset();
    result_->limits = limits_;
    result_->memory = options_.memory - limits_.stores + space_->memoryLeft();
    return std::move(result_);
  }

 private:
  int64_t length(int64_t s) const { return passes_->length(s); }

  void forward() {
    Stopwatch time(result_->seconds.forward);
    result_->meanLoss = passes_->forward();
    result_->lossTokens = passes_->lossTokens();
  }

  void visit(int64_t l) {
    const WideLayer layer = widen(*model_, l, 0);
    sums_ = std::make_unique<LayerMomentSums>(*model_, l, options_, *tapes_, *work_);
    if (addsInPlace()) return visitInPlace(l, layer);
    backward(l, layer);
    for (const std::vector<int>& projections : limits_.oneInput ? kByInput : kTogether) {
      freeScratch();
      factorize(l, layer, projections, sumMoments(layer, projections));
      keepOthers(l, projections);
    }
    if (options_.curves) curves(l, layer);
    freeScratch();
  }

  // Where not all that is summed is in memory at once, tapes are made once for all of it.
  bool addsInPlace() const { return work_->addsInPlace() && limits_.shareMemory && sums_->withoutTapes(); }

  // Where passes add up what they compute: it is made again for the curves instead of being kept.
  void visitInPlace(int64_t l, const WideLayer& layer) {
    factorize(l, layer, kTogether.front(), backwardInPlace(l, layer));
    if (options_.curves) curvesInPlace(l, layer);
    freeScratch();
  }

  // Between phases, where memory does not hold the buffers of two.
  void freeScratch() {
    if (limits_.shareMemory) return;
    passes_->freeScratch();
    sums_->freeScratch();
  }

  // Gradients and scores of one layer; inputs and gradients of the projections go to the tapes.
  void backward(int64_t l, const WideLayer& layer) {
    Stopwatch time(result_->seconds.backward);
    const LayerPass pass(*work_, layer, l, longest_);
    std::vector<std::array<FisherScore, kProjections>> scores(static_cast<size_t>(sequences_));
    passes_->backward(l, [&](int64_t s, const float* x, const float* dy, float* dx) {
      pass.backward(x, length(s), dy, dx, &scores[static_cast<size_t>(s)], keeperOf(s));
    });
    for (const auto& ofSequence : scores) addScores(l, ofSequence);
  }

  void addScores(int64_t l, const std::array<FisherScore, kProjections>& scores) {
    for (size_t p = 0; p < scores.size(); ++p)
      result_->scores[static_cast<size_t>(l * kProjections) + p] += scores[p];
  }

  // Scores and moments; gradients stay those at the layer's output where curves are to come.
  LayerMoments backwardInPlace(int64_t l, const WideLayer& layer) {
    Stopwatch time(result_->seconds.backward);
    LayerMomentSums::InPlace moments = sums_->inPlace();
    SumsInPlace sums;
    sums.moments = &moments.sums;
    sums.rows = moments.rows;
    sums.squared = moments.squared;
    for (std::vector<double>& of : moments.squares) {
      if (!of.empty()) sums.squares.push_back(of.data());
    }
    std::vector<std::array<FisherScore, kProjections>> scores(static_cast<size_t>(sequences_));
    {
      const LayerPass pass(*work_, layer, l, longest_);
      const auto backward = [&](int64_t s, const float* x, const float* dy, float* dx, Turns::Turn& turn) {
        pass.backward(x, length(s), dy, dx, &scores[static_cast<size_t>(s)], sums, turn);
      };
      passes_->inOrder(l, !options_.curves, backward);
    }
    for (const auto& ofSequence : scores) addScores(l, ofSequence);
    return sums_->take(layer, moments);
  }

  // Of what a sequence's pass leaves, what moments and curves are made of.
  TapeKeeper keeperOf(int64_t s) {
    const bool twoSided = options_.whitening == Whitening::twoSided;
    const bool inputs = options_.curves || options_.keepInputMoments || options_.whitening != Whitening::none;
    TapeKeeper keeper;
    for (int p = 0; p < kProjections; ++p) {
      if (inputs && ownsInput(p)) keeper.want(BackendTape::input, p);
      if (options_.curves || twoSided) keeper.want(BackendTape::gradient, p);
      if (twoSided && sums_->tall(p)) keeper.want(BackendTape::passedBack, p);
      if (sums_->inputSeen(p)) keeper.want(BackendTape::passedOn, p);
    }
    keeper.put = [this, s](BackendTape tape, int p, const float* values, int64_t count) {
      tapes_->put(s, Tapes::of(tape, p), values, static_cast<size_t>(count));
    };
    return keeper;
  }

  // Of the inputs of these projections, those that factors take as they are anyway.
  void keepSummed(int64_t l, const LayerMoments& moments, const std::vector<int>& projections) {
    if (!options_.keepInputMoments) return;
    for (int p : projections) {
      if (ownsInput(p) && sums_->inputWhole(p)) {
        keepMoment(l, p, moments.inputs[static_cast<size_t>(inputIndex(p))]);
      }
    }
  }

  // And the others, one after another: a wide projection's is the largest moment there is.
  void keepOthers(int64_t l, const std::vector<int>& projections) {
    if (!options_.keepInputMoments) return;
    Stopwatch time(result_->seconds.moments);
    for (int p : projections) {
      if (ownsInput(p) && !sums_->inputWhole(p)) keepMoment(l, p, sums_->input(p));
    }
    freeScratch();
  }

  void keepMoment(int64_t l, int p, const PackedSymmetric& moment) {
    const std::vector<float> packed(moment.values.begin(), moment.values.end());
    result_->inputMoments->put(static_cast<size_t>(momentSlot(l, p)), packed.data(), packed.size());
  }

  LayerMoments sumMoments(const WideLayer& layer, const std::vector<int>& projections) {
    Stopwatch time(result_->seconds.moments);
    return sums_->of(layer, projections);
  }

  void factorize(int64_t l, const WideLayer& layer, const std::vector<int>& projections,
                 const LayerMoments& moments) {
    if (observer_) observer_(l, moments);
    keepSummed(l, moments, projections);
    freeScratch();
    Stopwatch time(result_->seconds.factorize);
    pool_.parallelFor(static_cast<int64_t>(projections.size()), limits_.projections, [&](int64_t i) {
      const int p = projections[static_cast<size_t>(i)];
      const Linear& linear = *layer.projections[static_cast<size_t>(p)].linear;
      const int64_t most = std::min(linear.outputs, linear.inputs);
      FactorOptions options;
      options.jitter = options_.jitter;
      options.rank = ranksToFind(linear, options_);
      options.randomised = options.rank < most;
      options.seed = options_.seed;
      SymmetricView a = nullptr, b = nullptr, seen = nullptr;
      if (options_.whitening != Whitening::none) {
        (sums_->inputSeen(p) ? seen : a) = moments.inputs[static_cast<size_t>(inputIndex(p))];
      }
      if (options_.whitening == Whitening::twoSided) {
        (sums_->tall(p) ? seen : b) = moments.gradients[static_cast<size_t>(p)];
      }
      DeviceWork::Factors factors =
          work_->factors(layer.projections[static_cast<size_t>(p)].dense.values.data(), linear.outputs,
                         linear.inputs, a, b, seen, options);
      const auto index = static_cast<size_t>(l * kProjections + p);
      const int64_t rank = options.rank;
      result_->ranks[index] = rank;
      result_->singular[index] = std::move(factors.singular);
      result_->factors->put(index * 2, factors.u.get(), static_cast<size_t>(rank * linear.outputs));
      result_->factors->put(index * 2 + 1, factors.v.get(), static_cast<size_t>(rank * linear.inputs));
    });
  }

  void curves(int64_t l, const WideLayer& layer) {
    Stopwatch time(result_->seconds.curves);
    for (const std::vector<int>& projections : kByInput) curvesOf(l, layer, projections);
  }

  size_t indexOf(int64_t l, int p) const { return static_cast<size_t>(l * kProjections + p); }

  // What the curves of projections that share an input are made of; factors that have been spilled are read
  // into `scratch`.
  std::vector<BackendCurve> curvesFrom(int64_t l, const WideLayer& layer, const std::vector<int>& projections,
                                       std::vector<std::vector<float>>& scratch) {
    std::vector<BackendCurve> of;
    scratch.resize(2 * projections.size());
    for (size_t i = 0; i < projections.size(); ++i) {
      const size_t index = indexOf(l, projections[i]);
      const WideLinear& wide = layer.projections[static_cast<size_t>(projections[i])];
      const Linear& linear = *wide.linear;
      const int64_t rank = result_->ranks[index];
      const bool all = rank == std::min(linear.outputs, linear.inputs);
      of.push_back({linear.outputs, rank, result_->factors->get(index * 2, scratch[2 * i]),
                    result_->factors->get(index * 2 + 1, scratch[2 * i + 1]),
                    all ? nullptr : wide.dense.values.data()});
      result_->curves[index].assign(static_cast<size_t>(rank + 1), 0.0);
    }
    return of;
  }

  int64_t inputsOf(const WideLayer& layer, const std::vector<int>& projections) const {
    return layer.projections[static_cast<size_t>(projections.front())].linear->inputs;
  }

  // Of projections that share an input.
  void curvesOf(int64_t l, const WideLayer& layer, const std::vector<int>& projections) {
    const size_t count = projections.size();
    std::vector<std::vector<float>> scratch;
    const std::vector<BackendCurve> of = curvesFrom(l, layer, projections, scratch);
    const auto zeros = [&] {
      std::vector<std::vector<double>> curves;
      for (const BackendCurve& one : of) curves.emplace_back(static_cast<size_t>(one.rank + 1));
      return curves;
    };
    const int owner = projections.front();
    const Curves curves(*work_, inputsOf(layer, projections), of);
    std::vector<std::vector<std::vector<double>>> ofSequence(static_cast<size_t>(sequences_));
    passes_->each([&](int64_t s, Scratch& work) {
      const float* x = tapes_->get(s, Tapes::input(inputIndex(owner)), work.x);
      auto& to = ofSequence[static_cast<size_t>(s)] = zeros();
      work.outputs.resize(count);
      std::vector<const float*> g;
      std::vector<double*> out;
      for (size_t i = 0; i < count; ++i) {
        g.push_back(tapes_->get(s, Tapes::gradient(projections[i]), work.outputs[i]));
        out.push_back(to[i].data());
      }
      curves.add(x, g, length(s), out);
    });
    for (size_t i = 0; i < count; ++i) {
      auto& total = result_->curves[indexOf(l, projections[i])];
      for (const auto& sequence : ofSequence) {
        for (size_t r = 0; r < total.size(); ++r) total[r] += sequence[i][r];
      }
    }
  }

  // Of all projections, and the gradients at the layer's input.
  void curvesInPlace(int64_t l, const WideLayer& layer) {
    Stopwatch time(result_->seconds.curves);
    std::vector<std::vector<float>> scratch[kInputs];
    std::vector<std::unique_ptr<Curves>> curves;
    SumsInPlace sums;
    for (size_t i = 0; i < kInputs; ++i) {
      const std::vector<int>& projections = kByInput[i];
      curves.push_back(std::make_unique<Curves>(*work_, inputsOf(layer, projections),
                                                curvesFrom(l, layer, projections, scratch[i])));
      sums.curves[i] = curves.back().get();
      for (int p : projections) sums.out[i].push_back(result_->curves[indexOf(l, p)].data());
    }
    const LayerPass pass(*work_, layer, l, longest_);
    passes_->inOrder(l, true, [&](int64_t s, const float* x, const float* dy, float* dx, Turns::Turn& turn) {
      pass.backward(x, length(s), dy, dx, nullptr, sums, turn);
    });
  }

  std::shared_ptr<const Model> model_;
  std::unique_ptr<DeviceWork> work_;
  const ModelConfig& config_;
  const CalibrationOptions& options_;
  const Job& job_;
  const MomentObserver& observer_;
  ThreadPool& pool_;
  LayerLimits limits_;
  std::shared_ptr<SpillSpace> space_;
  int64_t sequences_, longest_ = 0;
  std::unique_ptr<TextPasses> passes_;
  std::unique_ptr<Tapes> tapes_;
  std::unique_ptr<LayerMomentSums> sums_;
  std::unique_ptr<Calibration> result_;
};

}  // namespace

bool inputSeenThrough(const ModelConfig& config, int64_t layer, int projection) {
  const Shape shape = projectionShape(config, layer, projection);
  return (projection == kO || projection == kDown) && shape.rows < shape.cols;
}

std::unique_ptr<Calibration> calibrate(std::shared_ptr<const Model> model, const CalibrationOptions& options,
                                       const Job& job, const MomentObserver& observer) {
  return Run(std::move(model), options, job, observer).run();
}

}  // namespace flrc
