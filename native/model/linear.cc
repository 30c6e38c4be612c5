#include "model/linear.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/error.h"
#include "core/thread_pool.h"
#include "cpu/kernels.h"
#include "linalg/gemm.h"

namespace flrc {
namespace {

// Outputs of a prefill tile: at least so many, and as many as leave its dequantised weights in L2.
constexpr int64_t kTileRows = 128;
constexpr int64_t kTileBytes = 768 * 1024;
// Tiles of a phase are a multiple of this, so that so many threads have equal work.
constexpr int64_t kTileShares = 8;
// Work below this takes no longer than fetching it as a task of its own.
constexpr int64_t kTaskBytes = 32 * 1024;

// Columns whose outputs are gathered by one task.
constexpr int64_t kTaskColumns = 8;

// Of a matrix of so many bytes: equal shares for all threads, several each where that is worth it, so that a
// thread that is held up holds up the others less. Whole panels, so that no two tasks read the same.
int64_t panelsPerTask(int64_t panels, size_t bytes, int threads) {
  const int64_t tasks =
      threads * std::clamp<int64_t>(static_cast<int64_t>(bytes) / (threads * kTaskBytes), 1, 4);
  return std::max<int64_t>(1, (panels + tasks - 1) / tasks);
}

// Outputs of a prefill tile, whole panels: of all matrices of a phase, whose outputs have up to `width`
// weights, equal shares. Whatever the number of threads, as BLAS rounds by the shape of a product: where there
// are fewer threads than shares, tiles are small, which costs nothing that could be measured.
int64_t tileRows(int64_t rows, int64_t width) {
  const int64_t most = std::max(kTileRows, kTileBytes / (4 * std::max<int64_t>(1, width)));
  const int64_t tiles =
      kTileShares * std::max<int64_t>(1, (rows + kTileShares * most - 1) / (kTileShares * most));
  return (rows + tiles * kPanel - 1) / (tiles * kPanel) * kPanel;
}

void layOut(const LinearCall* calls, int count, LinearScratch& scratch) {
  scratch.width = 0;
  if (scratch.places.size() < static_cast<size_t>(count)) scratch.places.resize(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    scratch.places[i].clear();
    const Linear& linear = *calls[i].linear;
    if (!linear.factored()) continue;
    const int64_t blocks = linear.blocksFor(calls[i].rank);
    for (int64_t b = 0; b < blocks; ++b) {
      const FactorBlock& block = *linear.blocks[b];
      scratch.places[i].push_back(scratch.width);
      scratch.width += calls[i].activeRank(block) + (linear.pivoted ? block.c.outputs : 0);
    }
  }
}

bool needsGather(const LinearCall& call) {
  return !call.linear->bias.empty() || (call.linear->factored() && (call.linear->pivoted || call.rank == 0));
}

void gatherAll(const LinearCall* calls, int count, int64_t columns, int threads, const LinearScratch& scratch) {
  bool any = false;
  for (int i = 0; i < count; ++i) any = any || needsGather(calls[i]);
  if (!any) return;
  auto column = [&](int64_t c) {
    for (int i = 0; i < count; ++i) {
      if (!needsGather(calls[i])) continue;
      const int64_t outputs = calls[i].linear->outputs;
      gatherOutputs(calls[i], scratch.places[i], scratch.latent.data() + c * scratch.width, 0, outputs,
                    calls[i].y + c * outputs);
    }
  };
  ThreadPool::shared().parallelFor((columns + kTaskColumns - 1) / kTaskColumns, threads, [&](int64_t task) {
    const int64_t end = std::min(columns, (task + 1) * kTaskColumns);
    for (int64_t c = task * kTaskColumns; c < end; ++c) column(c);
  });
}

// Of this thread, not cleared: a tile's dequantised weights.
float* tileMemory(int64_t count) {
  thread_local std::vector<float> memory;
  if (memory.size() < static_cast<size_t>(count)) memory.resize(static_cast<size_t>(count));
  return memory.data();
}

void prefillRows(const RowMatrix& w, int64_t begin, int64_t end, const float* x, int64_t columns, float* y,
                 int64_t ldy) {
  const int64_t rows = end - begin;
  float* wide = tileMemory(rows * w.cols);
  cpu::kernels().widenRows(w, begin, end, wide, rows);
  gemm(false, false, columns, rows, w.cols, 1.0f, x, w.cols, wide, rows, 0.0f, y + begin, ldy);
}

void prefillPanels(const PanelMatrix& c, int64_t begin, int64_t end, int64_t rank, const float* t, int64_t ldt,
                   int64_t columns, float* y, int64_t ldy) {
  const int64_t first = begin * kPanel, outputs = std::min(c.outputs, end * kPanel) - first;
  float* wide = tileMemory(rank * outputs);
  cpu::kernels().widenPanels(c, begin, end, rank, wide, outputs);
  gemm(false, false, columns, outputs, rank, 1.0f, t, ldt, wide, outputs, 0.0f, y + first, ldy);
}

// More columns than decoding has, all calls at once: rows of dense weights and of every block's P, then panels
// of every block's C.
class Application {
 public:
  Application(const LinearCall* calls, int count, const float* x, int64_t columns, int threads,
              LinearScratch& scratch)
      : calls_(calls), count_(count), x_(x), columns_(columns), threads_(threads), scratch_(scratch) {}

  void run() {
    auto& tasks = scratch_.tasks;
    tasks.clear();
    const Tiles tile = tiles();
    eachMatrix(
        [&](int i, int32_t b, const RowMatrix& w, int64_t some) { splitRows(i, b, w, some, tile.rows); });
    setPrompt();
    each([this](const LinearScratch::Task& task) { this->rows(task); });
    setPromptLatent();
    tasks.clear();
    eachBlock([&](int i, int32_t b, const FactorBlock& block) { splitPanels(i, b, block.c, tile.panels); });
    if (!tasks.empty()) each([this](const LinearScratch::Task& task) { panels(task); });
    gatherAll(calls_, count_, columns_, threads_, scratch_);
  }

 private:
  // What a task of prefill has of rows, and of panels.
  struct Tiles {
    int64_t rows = 0, panels = 0;
  };
  Tiles tiles() const {
    int64_t rows = 0, outputs = 0, rank = 0;
    eachMatrix([&](int, int32_t, const RowMatrix&, int64_t some) { rows += some; });
    eachBlock([&](int i, int32_t, const FactorBlock& block) {
      outputs += block.c.outputs;
      rank = std::max(rank, calls_[i].activeRank(block));
    });
    return {tileRows(rows, calls_->linear->inputs), tileRows(outputs, rank) / kPanel};
  }

  template <typename Body>  // body(call, block, factors)
  void eachBlock(const Body& body) const {
    for (int i = 0; i < count_; ++i) {
      for (size_t b = 0; b < scratch_.places[i].size(); ++b) {
        body(i, static_cast<int32_t>(b), *calls_[i].linear->blocks[b]);
      }
    }
  }

  template <typename Body>  // body(call, block or -1, dense weights or P, its rows in use)
  void eachMatrix(const Body& body) const {
    for (int i = 0; i < count_; ++i) {
      const Linear& linear = *calls_[i].linear;
      if (!linear.factored()) body(i, -1, *linear.dense, linear.outputs);
    }
    eachBlock(
        [&](int i, int32_t b, const FactorBlock& block) { body(i, b, block.p, calls_[i].activeRank(block)); });
  }

  template <typename Body>
  void each(const Body& body) {
    ThreadPool::shared().parallelFor(static_cast<int64_t>(scratch_.tasks.size()), threads_,
                                     [&](int64_t index) { body(scratch_.tasks[index]); });
  }

  const RowMatrix& rowsOf(const LinearScratch::Task& task) const {
    const Linear& linear = *calls_[task.linear].linear;
    return task.block < 0 ? *linear.dense : linear.blocks[task.block]->p;
  }

  static bool multipliesBf16(Dtype dtype) {
    return cpu::kernels().rowsTimesPrompt != nullptr && dtype != Dtype::f32;
  }

  void setPrompt() {
    bool any = false;
    eachMatrix([&](int, int32_t, const RowMatrix& w, int64_t) { any = any || multipliesBf16(w.dtype); });
    if (!any) return;
    const int64_t inputs = calls_->linear->inputs;
    cpu::PromptInputs& prompt = scratch_.prompt;
    cpu::resize(prompt, columns_, inputs);
    ThreadPool::shared().parallelFor(prompt.tiles(), threads_, [&](int64_t tile) {
      cpu::setPromptTile(cpu::kernels(), x_, inputs, inputs, tile, prompt);
    });
  }

  void setPromptLatent() {
    auto& latents = scratch_.promptLatent;
    auto& tasks = scratch_.tasks;
    tasks.clear();
    if (latents.size() < static_cast<size_t>(count_)) latents.resize(static_cast<size_t>(count_));
    eachBlock([&](int i, int32_t b, const FactorBlock& block) {
      if (!multipliesBf16(block.c.dtype)) return;
      if (latents[i].size() <= static_cast<size_t>(b)) latents[i].resize(static_cast<size_t>(b) + 1);
      cpu::resize(latents[i][b], columns_, calls_[i].activeRank(block));
      for (int64_t tile = 0; tile < latents[i][b].tiles(); ++tile) tasks.push_back({i, b, tile, tile + 1});
    });
    each([&](const LinearScratch::Task& task) {
      const FactorBlock& block = *calls_[task.linear].linear->blocks[task.block];
      cpu::setPromptTile(cpu::kernels(), scratch_.latent.data() + scratch_.places[task.linear][task.block],
                         scratch_.width, calls_[task.linear].activeRank(block), task.begin,
                         latents[task.linear][task.block]);
    });
  }

  void splitRows(int32_t call, int32_t block, const RowMatrix& w, int64_t rows, int64_t tile) {
    const int64_t step = multipliesBf16(w.dtype)
                             ? panelsPerTask((rows + kPanel - 1) / kPanel, w.bytes(), threads_) * kPanel
                             : tile;
    for (int64_t r = 0; r < rows; r += step)
      scratch_.tasks.push_back({call, block, r, std::min(rows, r + step)});
  }

  void splitPanels(int32_t call, int32_t block, const PanelMatrix& c, int64_t tile) {
    const int64_t step = multipliesBf16(c.dtype) ? panelsPerTask(c.panels(), c.bytes(), threads_) : tile;
    for (int64_t p = 0; p < c.panels(); p += step) {
      scratch_.tasks.push_back({call, block, p, std::min(c.panels(), p + step)});
    }
  }

  void rows(const LinearScratch::Task& task) {
    const LinearCall& call = calls_[task.linear];
    const bool dense = task.block < 0;
    const RowMatrix& w = rowsOf(task);
    float* y = dense ? call.y : scratch_.latent.data() + scratch_.places[task.linear][task.block];
    const int64_t ldy = dense ? call.linear->outputs : scratch_.width;
    if (multipliesBf16(w.dtype)) {
      cpu::kernels().rowsTimesPrompt(w, task.begin, task.end, scratch_.prompt, y, ldy);
    } else {
      prefillRows(w, task.begin, task.end, x_, columns_, y, ldy);
    }
  }

  void panels(const LinearScratch::Task& task) {
    const LinearCall& call = calls_[task.linear];
    const FactorBlock& block = *call.linear->blocks[task.block];
    const int64_t rank = call.activeRank(block);
    float* t = scratch_.latent.data() + scratch_.places[task.linear][task.block];
    float* y = call.linear->pivoted ? t + rank : call.y;
    const int64_t ldy = call.linear->pivoted ? scratch_.width : call.linear->outputs;
    if (multipliesBf16(block.c.dtype)) {
      cpu::kernels().panelsTimesPrompt(block.c, task.begin, task.end,
                                       scratch_.promptLatent[task.linear][task.block], y, ldy);
    } else {
      prefillPanels(block.c, task.begin, task.end, rank, t, scratch_.width, columns_, y, ldy);
    }
  }

  const LinearCall* calls_;
  int count_;
  const float* x_;
  int64_t columns_;
  int threads_;
  LinearScratch& scratch_;
};

}  // namespace

void finishBlock(FactorBlock& block, int64_t outputs) {
  const int64_t s = block.rank();
  block.gather.assign(static_cast<size_t>(outputs), -1);
  block.taken.assign(static_cast<size_t>((outputs + 31) / 32), 0);
  int32_t before = -1;
  for (int64_t j = 0; j < s; ++j) {
    const int32_t at = block.pivot[j];
    if (at <= before || at >= outputs) {
      throw Error(code::modelFormat, "pivot " + std::to_string(at) + " is out of order or outside the " +
                                         std::to_string(outputs) + " outputs");
    }
    before = at;
    block.gather[at] = static_cast<int32_t>(j);
    block.taken[static_cast<size_t>(at / 32)] |= uint32_t{1} << (at % 32);
  }
  int32_t rest = static_cast<int32_t>(s);
  block.panelOutput.assign(1, 0);
  for (int64_t o = 0; o < outputs; ++o) {
    if (block.gather[o] >= 0) continue;
    if (rest > s && (rest - s) % kPanel == 0) block.panelOutput.push_back(static_cast<int32_t>(o));
    block.gather[o] = rest++;
  }
}

void gatherBlock(const FactorBlock& block, int64_t begin, int64_t end, const float* latent, bool adds,
                 float* y) {
  cpu::kernels().gather({block.gather.data(), block.taken.data(), block.rank(), begin, end}, latent, adds, y);
}

void gatherOutputs(const LinearCall& call, const std::vector<int64_t>& places, const float* latent,
                   int64_t begin, int64_t end, float* y) {
  const Linear& linear = *call.linear;
  if (linear.factored() && places.empty()) std::fill(y + begin, y + end, 0.0f);
  for (size_t b = 0; linear.pivoted && b < places.size(); ++b) {
    gatherBlock(*linear.blocks[b], begin, end, latent + places[b], b > 0, y);
  }
  if (linear.bias.empty()) return;
  for (int64_t o = begin; o < end; ++o) y[o] += linear.bias[static_cast<size_t>(o)];
}

void scatterGathered(const FactorBlock& block, const float* dy, float* dt, float* du) {
  const int64_t s = block.rank();
  for (size_t o = 0; o < block.gather.size(); ++o) {
    const int32_t at = block.gather[o];
    (at < s ? dt[at] : du[at - s]) = dy[o];
  }
}

int64_t Linear::storedRank() const {
  int64_t rank = 0;
  for (const auto& block : blocks) rank += block->rank();
  return rank;
}

int64_t Linear::blocksFor(int64_t rank) const {
  if (!pivoted) return rank > 0 ? 1 : 0;
  int64_t count = 0, sum = 0;
  for (const auto& block : blocks) {
    if (sum + block->rank() > rank) break;
    sum += block->rank();
    ++count;
  }
  return count;
}

int64_t Linear::parameters(int64_t rank) const {
  if (!factored()) return outputs * inputs;
  if (!pivoted) return rank * (outputs + inputs);
  int64_t total = 0;
  for (int64_t b = 0; b < blocksFor(rank); ++b) {
    const int64_t s = blocks[b]->rank();
    total += s * (outputs + inputs - s);
  }
  return total;
}

size_t Linear::weightBytes(int64_t rank) const {
  const size_t biasBytes = bias.size() * sizeof(float);
  if (!factored()) return dense->bytes() + biasBytes;
  size_t total = biasBytes;
  for (int64_t b = 0; b < blocksFor(rank); ++b) {
    const FactorBlock& block = *blocks[b];
    if (pivoted || rank >= block.rank()) {
      total += block.bytes();
    } else {
      total +=
          (block.p.bytes() + block.c.bytes()) * static_cast<size_t>(rank) / static_cast<size_t>(block.rank());
    }
  }
  return total;
}

void applyLinears(const LinearCall* calls, int count, const float* x, int64_t columns, int threads,
                  LinearScratch& scratch, std::span<const LinearCall> next) {
  layOut(calls, count, scratch);
  scratch.latent.resize(static_cast<size_t>(scratch.width * columns));
  if (columns <= cpu::kMaxColumns) {
    decodeLinears(calls, count, x, columns, threads, next, scratch);
  } else {
    Application(calls, count, x, columns, threads, scratch).run();
  }
}

}  // namespace flrc
