#include "recover/trainable.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/recycled.h"
#include "core/thread_pool.h"
#include "linalg/bf16_gemm.h"
#include "linalg/gemm.h"

namespace flrc {
namespace {

// Columns of a gradient that one task computes; many enough for the product, few enough to share a layer out.
constexpr int64_t kTileColumns = 256, kRoundedTileColumns = 1024;
// Values of one slice of a matrix: some hundred microseconds of work.
constexpr int64_t kSliceValues = 64 * 1024;
// Rows that are zero before training (numerically lost ranks) still have to be able to move.
constexpr float kLeastScale = 1e-3f;

TrainableMatrix trainable(int64_t rows, int64_t cols) {
  TrainableMatrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  const auto count = static_cast<size_t>(rows * cols);
  for (auto* part : {&matrix.values, &matrix.gradient, &matrix.mean, &matrix.square}) part->resize(count);
  return matrix;
}

void setScales(TrainableMatrix& matrix) {
  matrix.scale.resize(static_cast<size_t>(matrix.rows));
  if (matrix.count() == 0) return;
  double total = 0;
  for (int64_t r = 0; r < matrix.rows; ++r) {
    double sum = 0;
    for (int64_t i = 0; i < matrix.cols; ++i) sum += std::pow(matrix.values[r * matrix.cols + i], 2);
    matrix.scale[r] = static_cast<float>(std::sqrt(sum / static_cast<double>(matrix.cols)));
    total += sum;
  }
  const auto least = kLeastScale * static_cast<float>(std::sqrt(total / static_cast<double>(matrix.count())));
  for (float& scale : matrix.scale) scale = std::max(scale, least);
}

TrainableBlock trainable(const Linear& linear, std::shared_ptr<const FactorBlock> stored) {
  TrainableBlock block;
  const int64_t s = stored->rank();
  block.p = trainable(s, linear.inputs);
  block.c = trainable(s, stored->c.outputs);
  for (int64_t j = 0; j < s; ++j) {
    getRow(stored->p, j, block.p.values.data() + j * block.p.cols);
    if (block.c.cols > 0) getRank(stored->c, j, block.c.values.data() + j * block.c.cols);
  }
  setScales(block.p);
  setScales(block.c);
  if (linear.pivoted) block.rest.resize(static_cast<size_t>(block.c.cols));
  for (size_t o = 0; o < stored->gather.size(); ++o) {
    const int32_t at = stored->gather[o];
    if (at >= s) block.rest[static_cast<size_t>(at - s)] = static_cast<int32_t>(o);
  }
  block.steps.resize(static_cast<size_t>(s));
  block.stored = std::move(stored);
  return block;
}

// Rows [begin, end) as they come back from storage in `dtype`.
void rounded(const TrainableMatrix& from, int64_t begin, int64_t end, Dtype dtype, bool panels, float* out) {
  const int64_t cols = from.cols;
  if (cols == 0) return;
  const float* in = from.values.data() + begin * cols;
  const int64_t count = (end - begin) * cols;
  if (dtype == Dtype::f32) {
    std::copy(in, in + count, out);
  } else if (dtype == Dtype::bf16) {
    for (int64_t i = 0; i < count; ++i) out[i] = bf16ToFloat(floatToBf16(in[i]));
  } else if (panels) {
    const PanelMatrix stored = makePanels(in, end - begin, cols, cols, dtype);
    for (int64_t j = 0; j < end - begin; ++j) getRank(stored, j, out + j * cols);
  } else {
    const RowMatrix stored = makeRows(in, end - begin, cols, cols, dtype);
    for (int64_t j = 0; j < end - begin; ++j) getRow(stored, j, out + j * cols);
  }
}

// g [tokens, outputs] at the outputs `rest`[begin..end): out [tokens, end - begin]
void gatherColumns(const float* g, int64_t tokens, int64_t outputs, const int32_t* rest, int64_t count,
                   std::vector<float>& out) {
  out.resize(static_cast<size_t>(tokens * count));
  float* to = out.data();
  for (int64_t t = 0; t < tokens; ++t, g += outputs) {
    for (int64_t i = 0; i < count; ++i) *to++ = g[rest[i]];
  }
}

AdamMoments moments(const TrainableBlock& block, TrainableMatrix& matrix, int64_t row, const AdamBetas& betas) {
  const int64_t at = row * matrix.cols;
  return adamMoments(betas, block.steps[static_cast<size_t>(row)], matrix.mean.data() + at,
                     matrix.square.data() + at);
}

int64_t rowsPerSlice(int64_t cols) { return std::max<int64_t>(1, kSliceValues / std::max<int64_t>(1, cols)); }

}  // namespace

TrainableFactors::TrainableFactors(const Model& start, Dtype dtype, const Job& job) {
  auto frame = std::make_shared<Model>(start);
  const bool tied = start.head == start.embedding;
  frame->dtype = dtype;
  frame->embedding = converted(start.embedding, embeddingDtype(dtype), start.threads);
  frame->head = tied ? frame->embedding : converted(start.head, embeddingDtype(dtype), start.threads);
  blocks_.resize(static_cast<size_t>(start.projectionCount()));
  for (int64_t i = 0; i < start.projectionCount(); ++i) {
    job.check();
    Linear& linear = frame->layers[static_cast<size_t>(i / kProjections)].projections[i % kProjections];
    if (!linear.factored()) {
      linear.dense = converted(linear.dense, dtype, start.threads);
      continue;
    }
    for (const auto& stored : linear.blocks) blocks(i).push_back(trainable(linear, stored));
  }
  frame_ = std::move(frame);
}

int64_t TrainableFactors::activeRank(int64_t projection, size_t block, int64_t level) const {
  const Linear& linear = frame_->projection(projection);
  const int64_t rank = frame_->levels[static_cast<size_t>(level)][static_cast<size_t>(projection)];
  if (static_cast<int64_t>(block) >= linear.blocksFor(rank)) return 0;
  const int64_t stored = linear.blocks[block]->rank();
  return linear.pivoted ? stored : std::min(rank, stored);
}

WideLayer TrainableFactors::widen(int64_t layer, int64_t level, bool rounds) const {
  WideLayer wide;
  wide.layer = &frame_->layers[static_cast<size_t>(layer)];
  wide.window = frame_->config.slidingWindow[static_cast<size_t>(layer)];
  wide.rope = frame_->config.layerRope[static_cast<size_t>(layer)];
  struct Slice {
    const TrainableMatrix* from;
    bool panels;
    int64_t begin, end;
    float* to;
  };
  std::vector<Slice> slices;
  for (int p = 0; p < kProjections; ++p) {
    const int64_t index = layer * kProjections + p;
    WideLinear& to = wide.projections[p];
    to.linear = &wide.layer->projections[p];
    if (!to.linear->factored()) {
      to.dense = {to.linear->outputs, to.linear->inputs, widenRows(*to.linear->dense, frame_->threads), {}, {}};
      continue;
    }
    const auto& from = blocks_[static_cast<size_t>(index)];
    for (size_t b = 0; b < from.size(); ++b) {
      WideLinear::Block block;
      block.rank = activeRank(index, b, level);
      if (block.rank == 0) continue;
      block.stored = from[b].stored.get();
      for (const bool panels : {false, true}) {
        const TrainableMatrix& matrix = panels ? from[b].c : from[b].p;
        WideMatrix& wideMatrix = panels ? block.c : block.p;
        wideMatrix = {
            block.rank, matrix.cols, std::vector<float>(static_cast<size_t>(block.rank * matrix.cols)), {}, {}};
        float* out = wideMatrix.values.data();
        const int64_t rows = rowsPerSlice(matrix.cols);
        for (int64_t begin = 0; begin < block.rank; begin += rows) {
          slices.push_back(
              {&matrix, panels, begin, std::min(block.rank, begin + rows), out + begin * matrix.cols});
        }
      }
      to.blocks.push_back(std::move(block));
    }
  }
  ThreadPool::shared().parallelFor(static_cast<int64_t>(slices.size()), frame_->threads, [&](int64_t i) {
    const Slice& slice = slices[static_cast<size_t>(i)];
    rounded(*slice.from, slice.begin, slice.end, frame_->dtype, slice.panels, slice.to);
  });
  if (rounds) return roundedToBf16(wide, frame_->threads);
  return wide;
}

void TrainableFactors::gradients(int64_t layer, const WideLayer& wide, const std::vector<LayerTrace>& sequences,
                                 bool rounds, const Job& job) {
  const int64_t tileColumns = rounds ? kRoundedTileColumns : kTileColumns;
  // C [s, n] = A^T B of tokens, or added to C.
  const auto products = [rounds](int64_t s, int64_t n, int64_t tokens, const float* a, const float* b,
                                 int64_t ldb, bool adds, float* c, int64_t ldc) {
    if (rounds) {
      bf16Products(s, n, tokens, a, s, b, ldb, adds, c, ldc);
    } else {
      gemm(true, false, s, n, tokens, 1.0f, a, s, b, ldb, adds ? 1.0f : 0.0f, c, ldc);
    }
  };
  struct Task {
    int projection;
    TrainableBlock* block;
    int64_t rank, before;  // ranks of the block, and of the blocks before it
    bool ofC;
    int64_t begin, end;  // columns
  };
  std::vector<Task> tasks;
  for (int p = 0; p < kProjections; ++p) {
    int64_t before = 0;
    const auto& active = wide.projections[p].blocks;
    for (size_t b = 0; b < active.size(); ++b) {
      TrainableBlock& block = blocks(layer * kProjections + p)[b];
      for (const bool ofC : {false, true}) {
        const int64_t cols = ofC ? block.c.cols : block.p.cols;
        for (int64_t begin = 0; begin < cols; begin += tileColumns) {
          tasks.push_back({p, &block, active[b].rank, before, ofC, begin, std::min(cols, begin + tileColumns)});
        }
      }
      before += active[b].rank;
    }
  }
  Recycled<std::vector<float>> scratch;
  ThreadPool::shared().parallelFor(static_cast<int64_t>(tasks.size()), frame_->threads, [&](int64_t index) {
    const Task& task = tasks[static_cast<size_t>(index)];
    const Linear& linear = *wide.projections[task.projection].linear;
    const auto p = static_cast<size_t>(task.projection);
    const int64_t s = task.rank, columns = task.end - task.begin;
    auto gathered = scratch.take();
    for (size_t i = 0; i < sequences.size(); ++i) {
      job.check();
      const LayerTrace& trace = sequences[i];
      const int64_t count = trace.tokens;
      if (!task.ofC) {
        // dP = dt^T x
        TrainableMatrix& to = task.block->p;
        products(s, columns, count, trace.gradients->latents[p].data() + count * task.before,
                 trace.kept->input(task.projection).data() + task.begin, linear.inputs, i > 0,
                 to.gradient.data() + task.begin, to.cols);
        continue;
      }
      // dC = t^T g[rest]
      TrainableMatrix& to = task.block->c;
      const float* g = trace.gradients->outputs[p].data();
      int64_t ld = linear.outputs;
      if (linear.pivoted) {
        gatherColumns(g, count, ld, task.block->rest.data() + task.begin, columns, *gathered);
        g = gathered->data();
        ld = columns;
      } else {
        g += task.begin;
      }
      products(s, columns, count, trace.kept->latents[p].data() + count * task.before, g, ld, i > 0,
               to.gradient.data() + task.begin, to.cols);
    }
  });
}

std::vector<TrainableFactors::Slice> TrainableFactors::slices(int64_t level) {
  std::vector<Slice> slices;
  for (int64_t i = 0; i < frame_->projectionCount(); ++i) {
    for (size_t b = 0; b < blocks(i).size(); ++b) {
      TrainableBlock& block = blocks(i)[b];
      const int64_t active = activeRank(i, b, level);
      for (TrainableMatrix* matrix : {&block.p, &block.c}) {
        const int64_t rows = rowsPerSlice(matrix->cols);
        for (int64_t begin = 0; begin < active && matrix->cols > 0; begin += rows) {
          slices.push_back({&block, matrix, begin, std::min(active, begin + rows)});
        }
      }
    }
  }
  return slices;
}

double TrainableFactors::gather(int64_t level, const AdamBetas& betas) {
  for (int64_t i = 0; i < frame_->projectionCount(); ++i) {
    for (size_t b = 0; b < blocks(i).size(); ++b) {
      auto& steps = blocks(i)[b].steps;
      std::for_each(steps.begin(), steps.begin() + activeRank(i, b, level), [](int32_t& count) { ++count; });
    }
  }
  const std::vector<Slice> all = slices(level);
  std::vector<double> changes(all.size());
  ThreadPool::shared().parallelFor(static_cast<int64_t>(all.size()), frame_->threads, [&](int64_t i) {
    const auto& [block, matrix, begin, end] = all[static_cast<size_t>(i)];
    for (int64_t r = begin; r < end; ++r) {
      changes[static_cast<size_t>(i)] +=
          matrix->scale[static_cast<size_t>(r)] * adamGather(betas, matrix->gradient.data() + r * matrix->cols,
                                                             matrix->cols, moments(*block, *matrix, r, betas));
    }
  });
  return std::accumulate(changes.begin(), changes.end(), 0.0);
}

void TrainableFactors::apply(int64_t level, const AdamBetas& betas, double rate) {
  const std::vector<Slice> all = slices(level);
  ThreadPool::shared().parallelFor(static_cast<int64_t>(all.size()), frame_->threads, [&](int64_t i) {
    const auto& [block, matrix, begin, end] = all[static_cast<size_t>(i)];
    for (int64_t r = begin; r < end; ++r) {
      const auto relative = static_cast<float>(rate * matrix->scale[static_cast<size_t>(r)]);
      adamApply(relative, matrix->cols, moments(*block, *matrix, r, betas),
                matrix->values.data() + r * matrix->cols);
    }
  });
}

void TrainableFactors::visitState(const std::function<void(void* data, size_t bytes)>& visit) {
  for (auto& ofProjection : blocks_) {
    for (TrainableBlock& block : ofProjection) {
      for (TrainableMatrix* matrix : {&block.p, &block.c}) {
        for (auto* part : {&matrix->values, &matrix->mean, &matrix->square}) {
          visit(part->data(), part->size() * sizeof(float));
        }
      }
      visit(block.steps.data(), block.steps.size() * sizeof(int32_t));
    }
  }
}

size_t TrainableFactors::bytes() const {
  size_t values = 0;
  for (const auto& ofProjection : blocks_) {
    for (const TrainableBlock& block : ofProjection) values += block.p.values.size() + block.c.values.size();
  }
  return values * 4 * sizeof(float);
}

std::vector<float> TrainableFactors::values() const {
  std::vector<float> all;
  for (const auto& ofProjection : blocks_) {
    for (const TrainableBlock& block : ofProjection) {
      all.insert(all.end(), block.p.values.begin(), block.p.values.end());
      all.insert(all.end(), block.c.values.begin(), block.c.values.end());
    }
  }
  return all;
}

std::shared_ptr<const Model> TrainableFactors::model(const std::vector<float>& values, const Job& job) const {
  auto model = std::make_shared<Model>(*frame_);
  std::vector<size_t> starts;
  size_t start = 0;
  for (const auto& ofProjection : blocks_) {
    starts.push_back(start);
    for (const TrainableBlock& block : ofProjection) start += block.p.values.size() + block.c.values.size();
  }
  ThreadPool::shared().parallelFor(model->projectionCount(), model->threads, [&](int64_t i) {
    job.check();
    Linear& linear = model->layers[static_cast<size_t>(i / kProjections)].projections[i % kProjections];
    const auto& from = blocks_[static_cast<size_t>(i)];
    const float* at = values.data() + starts[static_cast<size_t>(i)];
    for (size_t b = 0; b < from.size(); ++b) {
      const TrainableMatrix &p = from[b].p, &c = from[b].c;
      auto block = std::make_shared<FactorBlock>();
      block->p = makeRows(at, p.rows, p.cols, p.cols, model->dtype);
      block->c = makePanels(at + p.count(), c.rows, c.cols, c.cols, model->dtype);
      at += p.count() + c.count();
      block->pivot = from[b].stored->pivot;
      if (linear.pivoted) finishBlock(*block, linear.outputs);
      linear.blocks[b] = std::move(block);
    }
  });
  return model;
}

}  // namespace flrc
