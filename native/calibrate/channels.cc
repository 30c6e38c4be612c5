#include "calibrate/channels.h"

#include <algorithm>
#include <numeric>

#include "calibrate/layer_moments.h"
#include "calibrate/text_passes.h"
#include "core/error.h"
#include "core/stopwatch.h"
#include "cpu/kernels.h"
#include "linalg/gemm.h"
#include "linalg/moments.h"

namespace flrc {
namespace {

class Ranking {
 public:
  Ranking(std::shared_ptr<const Model> model, const ChannelOptions& options, const Job& job)
      : model_(std::move(model)),
        options_(options),
        job_(job),
        longest_(longestSequence(*model_, options)),
        limits_(channelLimits(model_->config, longest_, model_->threads, options.memory)),
        space_(std::make_shared<SpillSpace>(limits_.stores, options.scratch)),
        work_(*model_, job),
        tapes_(options.lengths, space_),
        passes_(*model_, options, work_, space_, limits_.sequences, "channels") {}

  std::unique_ptr<Channels> run() {
    auto result = std::make_unique<Channels>();
    {
      Stopwatch time(result->seconds);
      const auto layers = static_cast<size_t>(model_->config.layers);
      result->model = model_;
      result->layers.resize(layers);
      result->moments = std::make_unique<SpillStore>(space_, layers);
      result->group = options_.group;
      result->jitter = options_.jitter;
      result->meanLoss = passes_.forward();
      result->lossTokens = passes_.lossTokens();
      for (int64_t l = model_->config.layers - 1; l >= 0; --l) {
        visit(l, *result);
        passes_.reportVisited(l);
      }
    }
    return result;
  }

 private:
  void visit(int64_t l, Channels& to) {
    const WideLayer layer = widen(*model_, l, 0);
    backward(l, layer);
    const WideLinear& down = layer.projections[kDown];
    const int64_t m = down.linear->outputs, n = down.linear->inputs;
    std::vector<PackedSymmetric> moments = sum(m, n);
    PackedSymmetric &a = moments[0], &b = moments[1];
    a.shrinkToDiagonal(options_.shrinkage.inputs);
    b.shrinkToDiagonal(options_.shrinkage.gradients);
    {
      const std::vector<float> packed(a.values.begin(), a.values.end());
      to.moments->put(static_cast<size_t>(l), packed.data(), packed.size());
    }
    if (!limits_.shareMemory) passes_.freeScratch();
    ChannelRankingOptions how;
    how.group = options_.group;
    how.tokens = static_cast<double>(options_.tokens.size());
    how.jitter = options_.jitter;
    how.threads = model_->threads;
    ChannelRanking& ranking = to.layers[static_cast<size_t>(l)];
    ranking = rankChannels(down.dense.values.data(), m, n, std::move(a), b, how, job_);
    const int64_t groups = std::ssize(ranking.costs) - 1;
    if (groups == 0) return;
    std::vector<MeasuredCost> measured;
    for (const int64_t some : {std::max<int64_t>(1, groups / 3), std::max<int64_t>(1, groups * 2 / 3)}) {
      measured.push_back({some, measure(to, l, down.dense.values, some)});
    }
    scaleCosts(ranking.costs, measured);
  }

  // As truncation curves: 1/2 sum_t (g_t . D x_t)^2 of the change D of down that dropping so many groups makes.
  double measure(const Channels& channels, int64_t l, const std::vector<float>& w, int64_t groups) {
    const Linear& down = model_->projection(l * kProjections + kDown);
    const int64_t m = down.outputs, n = down.inputs;
    std::vector<float> change(w.size());
    for (size_t i = 0; i < w.size(); ++i) change[i] = -w[i];
    {
      const std::vector<int32_t> kept = keptChannels(channels, l, n - groups * options_.group);
      std::vector<float> scratch;
      const std::vector<float> mended =
          refitToKept(w.data(), m, n, channels.moments->get(static_cast<size_t>(l), scratch), kept,
                      options_.jitter, model_->threads, job_);
      const auto k = std::ssize(kept);
      for (int64_t i = 0; i < m * k; ++i) {
        change[static_cast<size_t>(i / k * n + kept[static_cast<size_t>(i % k)])] +=
            mended[static_cast<size_t>(i)];
      }
    }
    std::vector<double> sums(options_.lengths.size());
    passes_.each([&](int64_t s, TextPasses::Scratch& work) {
      const int64_t tokens = passes_.length(s);
      const float* x = tapes_.get(s, Tapes::input(inputIndex(kDown)), work.x);
      const float* g = tapes_.get(s, Tapes::gradient(kDown), work.dy);
      work.y.resize(static_cast<size_t>(tokens * m));
      gemm(false, true, tokens, m, n, 1.0f, x, n, change.data(), n, 0.0f, work.y.data(), m);
      for (int64_t t = 0; t < tokens; ++t) {
        const double lost = cpu::kernels().dot(g + t * m, work.y.data() + t * m, m);
        sums[static_cast<size_t>(s)] += lost * lost / 2;
      }
    });
    return std::accumulate(sums.begin(), sums.end(), 0.0);
  }

  void backward(int64_t l, const WideLayer& layer) {
    const LayerPass pass(work_, layer, l, longest_);
    passes_.backward(l, [&](int64_t s, const float* x, const float* dy, float* dx) {
      TapeKeeper keeper;
      keeper.want(BackendTape::input, kDown);
      keeper.want(BackendTape::gradient, kDown);
      keeper.put = [&](BackendTape tape, int p, const float* values, int64_t count) {
        tapes_.put(s, Tapes::of(tape, p), values, static_cast<size_t>(count));
      };
      pass.backward(x, passes_.length(s), dy, dx, nullptr, keeper);
    });
  }

  // A and B.
  std::vector<PackedSymmetric> sum(int64_t m, int64_t n) {
    MomentSums sums(work_, {n, m});
    std::vector<float> inputs, gradients, clipped;
    for (int64_t s = 0; s < tapes_.sequences(); ++s) {
      const float* x = tapes_.get(s, Tapes::input(inputIndex(kDown)), inputs);
      const float* g = tapes_.get(s, Tapes::gradient(kDown), gradients);
      scaleRows(g, clipFactors(g, tapes_.length(s), m), m, clipped);
      sums.add({x, clipped.data()}, tapes_.length(s));
    }
    return sums.take();
  }

  const std::shared_ptr<const Model> model_;
  const ChannelOptions& options_;
  const Job& job_;
  const int64_t longest_;
  const LayerLimits limits_;
  const std::shared_ptr<SpillSpace> space_;
  const DeviceWork work_;
  Tapes tapes_;
  TextPasses passes_;
};

std::shared_ptr<const RowMatrix> selectedRows(const RowMatrix& from, const std::vector<int32_t>& rows,
                                              int threads) {
  auto to = std::make_shared<RowMatrix>(allocateRows(std::ssize(rows), from.cols, from.dtype));
  ThreadPool::shared().parallelFor(to->rows, threads, [&](int64_t i) {
    StoredRow row;
    storeRow(from, rows[static_cast<size_t>(i)], row);
    loadRows(*to, i, 1, row);
  });
  return to;
}

void keepOutputs(Linear& linear, const std::vector<int32_t>& kept, int threads) {
  linear.outputs = std::ssize(kept);
  linear.dense = selectedRows(*linear.dense, kept, threads);
  if (linear.bias.empty()) return;
  std::vector<float> bias;
  for (int32_t channel : kept) bias.push_back(linear.bias[static_cast<size_t>(channel)]);
  linear.bias = std::move(bias);
}

void keepInputs(Linear& linear, const std::vector<int32_t>& kept, const float* moment, double jitter,
                int threads, const Job& job) {
  const std::vector<float> wide = widenRows(*linear.dense, threads);
  const std::vector<float> mended =
      refitToKept(wide.data(), linear.outputs, linear.inputs, moment, kept, jitter, threads, job);
  linear.inputs = std::ssize(kept);
  auto to = std::make_shared<RowMatrix>(allocateRows(linear.outputs, linear.inputs, linear.dense->dtype));
  ThreadPool::shared().parallelFor(
      to->rows, threads, [&](int64_t row) { setRows(*to, row, 1, mended.data() + row * to->cols, to->cols); });
  linear.dense = std::move(to);
}

}  // namespace

std::unique_ptr<Channels> rankChannels(std::shared_ptr<const Model> model, const ChannelOptions& options,
                                       const Job& job) {
  if (options.group < 1) throw Error(code::internal, "channels are dropped in groups of one at least");
  return Ranking(std::move(model), options, job).run();
}

std::vector<int32_t> keptChannels(const Channels& channels, int64_t layer, int64_t width) {
  if (layer < 0 || layer >= std::ssize(channels.layers)) throw Error(code::internal, "there is no such layer");
  const std::vector<int32_t>& order = channels.layers[static_cast<size_t>(layer)].order;
  const int64_t all = channels.model->projection(layer * kProjections + kDown).inputs, gone = all - width;
  if (gone < 0 || gone > std::ssize(order) || gone % channels.group != 0) {
    throw Error(code::internal, "layer " + std::to_string(layer) + " of " + std::to_string(all) +
                                    " channels cannot keep " + std::to_string(width) + ": groups of " +
                                    std::to_string(channels.group) + " go, " + std::to_string(order.size()) +
                                    " at most");
  }
  std::vector<bool> goes(static_cast<size_t>(all));
  for (int64_t i = 0; i < gone; ++i) goes[static_cast<size_t>(order[static_cast<size_t>(i)])] = true;
  std::vector<int32_t> kept;
  for (int64_t c = 0; c < all; ++c) {
    if (!goes[static_cast<size_t>(c)]) kept.push_back(static_cast<int32_t>(c));
  }
  return kept;
}

std::shared_ptr<const Model> dropChannels(const Channels& channels, const std::vector<int32_t>& widths,
                                          const Job& job) {
  const Model& source = *channels.model;
  if (std::ssize(widths) != source.config.layers)
    throw Error(code::internal, "one width per layer is expected");
  auto model = std::make_shared<Model>(source);
  for (size_t l = 0; l < widths.size(); ++l) {
    job.check();
    const std::vector<int32_t> kept = keptChannels(channels, static_cast<int64_t>(l), widths[l]);
    auto& projections = model->layers[l].projections;
    if (std::ssize(kept) < projections[kDown].inputs) {
      for (int p : {kGate, kUp}) keepOutputs(projections[static_cast<size_t>(p)], kept, source.threads);
      std::vector<float> scratch;
      keepInputs(projections[kDown], kept, channels.moments->get(l, scratch), channels.jitter, source.threads,
                 job);
      model->config.intermediates[l] = widths[l];
    }
    job.report("channels", static_cast<int64_t>(l) + 1, source.config.layers);
  }
  return model;
}

}  // namespace flrc
