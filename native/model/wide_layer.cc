#include "model/wide_layer.h"

#include <algorithm>

#include "core/thread_pool.h"
#include "cpu/kernels.h"

namespace flrc {
namespace {

constexpr int64_t kRowsPerTask = 64;

}  // namespace

std::vector<float> widenRows(const RowMatrix& matrix, int threads) {
  std::vector<float> wide(static_cast<size_t>(matrix.rows * matrix.cols));
  const int64_t tasks = (matrix.rows + kRowsPerTask - 1) / kRowsPerTask;
  ThreadPool::shared().parallelFor(tasks, threads, [&](int64_t task) {
    const int64_t begin = task * kRowsPerTask, end = std::min(matrix.rows, begin + kRowsPerTask);
    std::vector<float> tile(static_cast<size_t>((end - begin) * matrix.cols));
    cpu::kernels().widenRows(matrix, begin, end, tile.data(), end - begin);
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = 0; c < matrix.cols; ++c) {
        wide[static_cast<size_t>(r * matrix.cols + c)] =
            tile[static_cast<size_t>(c * (end - begin) + r - begin)];
      }
    }
  });
  return wide;
}

std::shared_ptr<const RowMatrix> converted(const std::shared_ptr<const RowMatrix>& from, Dtype dtype,
                                           int threads) {
  if (from->dtype == dtype) return from;
  auto to = std::make_shared<RowMatrix>(allocateRows(from->rows, from->cols, dtype));
  ThreadPool::shared().parallelFor(from->rows, threads, [&](int64_t row) {
    std::vector<float> wide(static_cast<size_t>(from->cols));
    getRow(*from, row, wide.data());
    setRows(*to, row, 1, wide.data(), from->cols);
  });
  return to;
}

int64_t WideLinear::rank() const {
  int64_t sum = 0;
  for (const Block& block : blocks) sum += block.rank;
  return sum;
}

WideLayer widen(const Model& model, int64_t layerIndex, int64_t level) {
  WideLayer wide;
  wide.layer = &model.layers[static_cast<size_t>(layerIndex)];
  wide.window = model.config.slidingWindow[static_cast<size_t>(layerIndex)];
  wide.rope = model.config.layerRope[static_cast<size_t>(layerIndex)];
  for (int p = 0; p < kProjections; ++p) {
    const Linear& linear = wide.layer->projections[p];
    WideLinear& to = wide.projections[p];
    to.linear = &linear;
    if (!linear.factored()) {
      to.dense = {linear.outputs, linear.inputs, widenRows(*linear.dense, model.threads), {}, {}};
      continue;
    }
    const int64_t rank = model.rank(level, layerIndex, p);
    for (int64_t b = 0; b < linear.blocksFor(rank); ++b) {
      const FactorBlock& stored = *linear.blocks[static_cast<size_t>(b)];
      WideLinear::Block block;
      block.stored = &stored;
      block.rank = linear.pivoted ? stored.rank() : std::min(rank, stored.rank());
      block.p = {block.rank, linear.inputs, widenRows(stored.p, model.threads), {}, {}};
      block.c = {block.rank, stored.c.outputs, {}, {}, {}};
      block.c.values.resize(static_cast<size_t>(block.rank * stored.c.outputs));
      ThreadPool::shared().parallelFor(stored.c.panels(), model.threads, [&](int64_t panel) {
        cpu::kernels().widenPanels(stored.c, panel, panel + 1, block.rank,
                                   block.c.values.data() + panel * kPanel, stored.c.outputs);
      });
      to.blocks.push_back(std::move(block));
    }
  }
  return wide;
}

WideLayer roundedToBf16(const WideLayer& layer, int threads) {
  WideLayer rounded;
  rounded.layer = layer.layer;
  rounded.window = layer.window;
  rounded.rope = layer.rope;
  std::vector<Rounding> matrices;
  for (size_t p = 0; p < layer.projections.size(); ++p) {
    const WideLinear& from = layer.projections[p];
    WideLinear& to = rounded.projections[p];
    to.linear = from.linear;
    to.blocks.resize(from.blocks.size());
    matrices.push_back({&from.dense, &to.dense});
    for (size_t b = 0; b < from.blocks.size(); ++b) {
      const WideLinear::Block& block = from.blocks[b];
      to.blocks[b].rank = block.rank;
      to.blocks[b].stored = block.stored;
      matrices.push_back({&block.p, &to.blocks[b].p});
      matrices.push_back({&block.c, &to.blocks[b].c});
    }
  }
  roundToBf16(matrices, threads);
  return rounded;
}

void WideLinear::apply(const float* x, int64_t tokens, float* y, std::vector<float>& latent) const {
  const int64_t m = linear->outputs, n = linear->inputs;
  if (!linear->factored()) {
    dense.forwards(x, tokens, false, y);
  } else {
    std::fill(y, y + tokens * m, 0.0f);
    latent.resize(static_cast<size_t>(tokens * rank()));
    float* t = latent.data();
    std::vector<float> u;
    for (const Block& block : blocks) {
      const int64_t s = block.rank, others = block.stored->c.outputs;
      block.p.forwards(x, tokens, false, t);
      if (!linear->pivoted) {
        block.c.backwards(t, tokens, false, y);
      } else {
        u.resize(static_cast<size_t>(tokens * others));
        if (others > 0) block.c.backwards(t, tokens, false, u.data());
        std::vector<float> together(static_cast<size_t>(m));
        for (int64_t token = 0; token < tokens; ++token) {
          std::copy_n(t + token * s, s, together.begin());
          std::copy_n(u.begin() + token * others, others, together.begin() + s);
          gatherBlock(*block.stored, 0, m, together.data(), true, y + token * m);
        }
      }
      t += tokens * s;
    }
  }
  if (linear->bias.empty()) return;
  for (int64_t token = 0; token < tokens; ++token) {
    cpu::kernels().add(linear->bias.data(), m, y + token * m);
  }
}

void WideLinear::passBack(const float* g, int64_t tokens, float* dx, std::vector<float>& latent) const {
  const int64_t m = linear->outputs, n = linear->inputs;
  if (!linear->factored()) {
    dense.backwards(g, tokens, false, dx);
    return;
  }
  std::fill(dx, dx + tokens * n, 0.0f);
  latent.resize(static_cast<size_t>(tokens * rank()));
  float* dt = latent.data();
  std::vector<float> du;
  for (const Block& block : blocks) {
    const int64_t s = block.rank, others = block.stored->c.outputs;
    if (!linear->pivoted) {
      block.c.forwards(g, tokens, false, dt);
    } else {
      du.resize(static_cast<size_t>(tokens * others));
      for (int64_t token = 0; token < tokens; ++token) {
        scatterGathered(*block.stored, g + token * m, dt + token * s, du.data() + token * others);
      }
      if (others > 0) block.c.forwards(du.data(), tokens, true, dt);
    }
    block.p.backwards(dt, tokens, true, dx);
    dt += tokens * s;
  }
}

}  // namespace flrc
