#include "model/decode_linear.h"

#include <algorithm>
#include <array>

#include "core/thread_pool.h"
#include "cpu/kernels.h"
#include "model/linear.h"

namespace flrc {
namespace {

// Work below this takes no longer than fetching it as a task of its own.
constexpr int64_t kTaskBytes = 32 * 1024;
// What a thread asks for ahead of its next phase, at most: it has to fit into L2 beside everything else.
constexpr int64_t kAheadBytes = 64 * 1024;
// What is asked for of weights that lie elsewhere, before those are multiplied that come first. To find their
// page takes longer than multiplying what kernels ask for ahead.
constexpr int64_t kTouchedBytes = 4096;

int64_t panelsOf(int64_t rows) { return (rows + kPanel - 1) / kPanel; }

const RowMatrix& rowsOf(const LinearCall& call, int32_t block) {
  return block < 0 ? *call.linear->dense : call.linear->blocks[static_cast<size_t>(block)]->p;
}

// Rows of dense weights and of every block's P.
void addRows(std::span<const LinearCall> calls, DecodePhase& phase) {
  phase.clear();
  for (size_t i = 0; i < calls.size(); ++i) {
    const LinearCall& call = calls[i];
    const Linear& linear = *call.linear;
    const auto add = [&](int32_t block, int64_t rows) {
      const RowMatrix& w = rowsOf(call, block);
      const auto bytes = static_cast<int64_t>(w.bytes()) * rows / std::max<int64_t>(1, w.rows);
      phase.add({static_cast<int32_t>(i), block, 1, 0, panelsOf(rows), bytes});
    };
    if (!linear.factored()) {
      add(-1, linear.outputs);
      continue;
    }
    const int64_t blocks = linear.blocksFor(call.rank);
    for (int64_t b = 0; b < blocks; ++b) {
      add(static_cast<int32_t>(b), call.activeRank(*linear.blocks[static_cast<size_t>(b)]));
    }
  }
}

// Panels of every call's C.
void addPanels(std::span<const LinearCall> calls, DecodePhase& phase) {
  phase.clear();
  for (size_t i = 0; i < calls.size(); ++i) {
    const LinearCall& call = calls[i];
    if (!call.linear->factored()) continue;
    const int64_t blocks = call.linear->blocksFor(call.rank);
    // One unit even where all outputs are pivots, which have to be put in their places.
    int64_t units = 1, bytes = 0;
    for (int64_t b = 0; b < blocks; ++b) {
      const FactorBlock& block = *call.linear->blocks[static_cast<size_t>(b)];
      units = std::max(units, block.c.panels());
      bytes +=
          static_cast<int64_t>(block.c.bytes()) * call.activeRank(block) / std::max<int64_t>(1, block.rank());
    }
    phase.add({static_cast<int32_t>(i), 0, blocks, 0, units, bytes});
  }
}

WeightsAt weightsAt(const RowMatrix& w, int64_t panel) {
  const int64_t words = panel * kPanel * w.rowWords(), groups = panel * kPanel * (w.stride / kGroup);
  return {w.data.data() + words * 4, w.scale.data() + groups * 2, w.zero.data() + groups,
          static_cast<int64_t>(w.data.size()) - words * 4};
}

WeightsAt weightsAt(const PanelMatrix& w, int64_t panel) {
  const int64_t words = panel * kPanel * w.outputWords(), groups = panel * w.rank;
  return {w.data.data() + words * 4, w.scale.data() + groups * 2, w.zero.data() + groups,
          static_cast<int64_t>(w.data.size()) - words * 4};
}

void touch(const WeightsAt& weights) {
  const int64_t bytes = std::min(kTouchedBytes, weights.bytes);
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(weights.data + i, 0, 2);
  __builtin_prefetch(weights.scale, 0, 2);
  __builtin_prefetch(weights.zero, 0, 2);
}

int64_t panelAt(const FactorBlock& block, const DecodePhase::Part& part, int64_t unit) {
  return (unit - part.first) * block.c.panels() / part.units;
}

// The first output that panels before a unit do not give.
int64_t outputAt(const LinearCall& call, const FactorBlock& block, const DecodePhase::Part& part,
                 int64_t unit) {
  if (unit == part.first) return 0;
  if (unit == part.first + part.units) return call.linear->outputs;
  const int64_t panel = panelAt(block, part, unit);
  return call.linear->pivoted ? block.panelOutput[static_cast<size_t>(panel)] : panel * kPanel;
}

class Decoding {
 public:
  Decoding(std::span<const LinearCall> calls, const float* x, int64_t columns, int threads,
           std::span<const LinearCall> next, LinearScratch& scratch)
      : calls_(calls), x_(x), columns_(columns), threads_(threads), next_(next), scratch_(scratch) {}

  void run() {
    DecodeScratch& own = scratch_.decode;
    addRows(calls_, own.rows);
    addPanels(calls_, own.panels);
    addRows(next_, own.next);
    if (own.capacity < threads_) {
      own.runs = std::make_unique<SharedRun[]>(static_cast<size_t>(threads_));
      own.capacity = threads_;
    }
    own.seams.assign(static_cast<size_t>(own.panels.units), 0);
    setInputs();
    if (own.panels.units > 0) {
      each<&Decoding::rows>(own.rows, calls_, own.panels, false);
      each<&Decoding::panels>(own.panels, next_, own.next, true);
      putTogetherSeams();
    } else {
      each<&Decoding::rows>(own.rows, next_, own.next, true);
    }
  }

 private:
  // What a thread has multiplied without a gap, and the outputs it has put together.
  struct Done {
    const DecodePhase::Part* part = nullptr;
    Units units, outputs;
  };

  using Task = void (Decoding::*)(const DecodePhase::Part& part, Units units, const WeightsAt& after,
                                  Done& done);

  void setInputs() {
    std::array<bool, kDtypes> set{};
    for (const DecodePhase::Part& part : scratch_.decode.rows.parts) {
      const RowMatrix& w = rowsOf(calls_[static_cast<size_t>(part.call)], part.block);
      const auto type = static_cast<size_t>(w.dtype);
      if (set[type]) continue;
      set[type] = true;
      cpu::setInputs(cpu::kernels(), x_, w.cols, w.cols, static_cast<int>(columns_), w.dtype,
                     scratch_.inputs[type]);
    }
  }

  static WeightsAt weightsOf(std::span<const LinearCall> calls, const DecodePhase& phase, int64_t unit,
                             bool ofRows) {
    if (unit == phase.units) return {};
    const DecodePhase::Part& part = phase.partOf(unit);
    const LinearCall& call = calls[static_cast<size_t>(part.call)];
    if (ofRows) return weightsAt(rowsOf(call, part.block), unit - part.first);
    if (call.linear->blocksFor(call.rank) == 0) return {};
    const FactorBlock& block = *call.linear->blocks[0];
    return weightsAt(block.c, panelAt(block, part, unit));
  }

  template <Task task>
  void each(const DecodePhase& phase, std::span<const LinearCall> following, const DecodePhase& then,
            bool thenRows) {
    DecodeScratch& own = scratch_.decode;
    if (phase.units == 0) return;
    shares_ = static_cast<int>(std::min<int64_t>(threads_, phase.units));
    phase_ = &phase;
    for (int i = 0; i < shares_; ++i) {
      own.runs[static_cast<size_t>(i)].set({phase.shareBegin(i, shares_), phase.shareBegin(i + 1, shares_)});
    }
    own.ahead.clear();
    const auto after = static_cast<int>(std::min<int64_t>(threads_, then.units));
    for (int i = 0; i < after; ++i) {
      own.ahead.push_back(weightsOf(following, then, then.shareBegin(i, after), thenRows));
    }
    ThreadPool::shared().parallelFor(shares_, threads_, [this](int64_t) { work<task>(); });
  }

  template <Task task>
  void work() {
    DecodeScratch& scratch = scratch_.decode;
    const DecodePhase& phase = *phase_;
    const int number = ThreadPool::threadNumber(), own = number % shares_;
    const bool known = static_cast<size_t>(number) < scratch.ahead.size();
    const WeightsAt ahead = known ? scratch.ahead[static_cast<size_t>(number)] : WeightsAt{};
    const int64_t end = phase.shareBegin(own + 1, shares_);
    for (int i = 0; i < shares_; ++i) {
      SharedRun& run = scratch.runs[static_cast<size_t>((own + i) % shares_)];
      Done done;
      for (;;) {
        const Units units = i == 0 ? run.takeFront([&](Units left) { return front(left); })
                                   : run.takeBack([&](Units left) { return back(left); });
        if (units.count() == 0) break;
        const DecodePhase::Part& part = phase.partOf(units.begin);
        WeightsAt after;
        if (i > 0 || units.end == end) {
          after = ahead;
        } else if (part.streams > 1 || units.end == part.first + part.units) {
          after = weightsOf(calls_, phase, units.end, task == &Decoding::rows);
        }
        (this->*task)(part, units, after, done);
      }
    }
    ThreadPool::readAhead(ahead.data, std::min(kAheadBytes, ahead.bytes));
  }

  // Half of what is left, so that little is when others come to help, but no less than is worth a task, and of
  // one part.
  int64_t some(const DecodePhase::Part& part, int64_t left, int64_t inPart) const {
    const int64_t least = part.bytes > 0 ? kTaskBytes * part.units / part.bytes : part.units;
    return std::min(inPart, std::max({int64_t{1}, least, left / 2}));
  }
  int64_t front(Units left) const {
    const DecodePhase::Part& part = phase_->partOf(left.begin);
    return some(part, left.count(), std::min(left.end, part.first + part.units) - left.begin);
  }
  int64_t back(Units left) const {
    const DecodePhase::Part& part = phase_->partOf(left.end - 1);
    return some(part, left.count(), left.end - std::max(left.begin, part.first));
  }

  void rows(const DecodePhase::Part& part, Units units, const WeightsAt& after, Done&) {
    const LinearCall& call = calls_[static_cast<size_t>(part.call)];
    const Linear& linear = *call.linear;
    const bool dense = part.block < 0;
    const RowMatrix& w = rowsOf(call, part.block);
    const int64_t all = dense ? w.rows : call.activeRank(*linear.blocks[static_cast<size_t>(part.block)]);
    const int64_t begin = (units.begin - part.first) * kPanel,
                  end = std::min(all, (units.end - part.first) * kPanel);
    float* y = dense ? call.y : latent(part.call, part.block);
    const int64_t ldy = dense ? linear.outputs : scratch_.width;
    touch(after);
    cpu::kernels().rowsTimes(w, begin, end, scratch_.inputs[static_cast<size_t>(w.dtype)], y, ldy);
    if (dense && !linear.bias.empty()) putTogether(part.call, {begin, end});
  }

  void panels(const DecodePhase::Part& part, Units units, const WeightsAt& after, Done& done) {
    const LinearCall& call = calls_[static_cast<size_t>(part.call)];
    const Linear& linear = *call.linear;
    const auto blocks = static_cast<int32_t>(linear.blocksFor(call.rank));
    Units outputs{0, linear.outputs};
    for (int32_t b = 0; b < blocks; ++b) {
      const FactorBlock& block = *linear.blocks[static_cast<size_t>(b)];
      const int64_t rank = call.activeRank(block);
      float* t = latent(part.call, b);
      float* y = linear.pivoted ? t + rank : call.y;
      const int64_t ldy = linear.pivoted ? scratch_.width : linear.outputs;
      if (b + 1 < blocks) {
        const FactorBlock& other = *linear.blocks[static_cast<size_t>(b + 1)];
        touch(weightsAt(other.c, panelAt(other, part, units.begin)));
      } else {
        touch(after);
      }
      cpu::kernels().panelsTimes(block.c, panelAt(block, part, units.begin), panelAt(block, part, units.end),
                                 rank, t, scratch_.width, static_cast<int>(columns_), y, ldy);
      outputs.begin = std::max(outputs.begin, outputAt(call, block, part, units.begin));
      outputs.end = std::min(outputs.end, outputAt(call, block, part, units.end));
    }
    std::vector<uint8_t>& seams = scratch_.decode.seams;
    seams[static_cast<size_t>(units.begin)] = 1;
    if (done.part == &part && done.units.end == units.begin) {
      seams[static_cast<size_t>(units.begin)] = 0;
      outputs.begin = done.outputs.end;
    } else if (done.part == &part && done.units.begin == units.end) {
      seams[static_cast<size_t>(units.end)] = 0;
      outputs.end = done.outputs.begin;
    }
    outputs.end = std::max(outputs.begin, outputs.end);
    done = {&part, units, outputs};
    if (blocks == 0 || linear.pivoted || !linear.bias.empty()) putTogether(part.call, outputs);
  }

  // What lies between the outputs that threads could put together, since blocks have their panels' borders at
  // different outputs.
  void putTogetherSeams() {
    const DecodeScratch& own = scratch_.decode;
    for (const DecodePhase::Part& part : own.panels.parts) {
      const LinearCall& call = calls_[static_cast<size_t>(part.call)];
      const Linear& linear = *call.linear;
      const int64_t blocks = linear.blocksFor(call.rank);
      if (blocks < 2) continue;
      for (int64_t unit = part.first + 1; unit < part.first + part.units; ++unit) {
        if (own.seams[static_cast<size_t>(unit)] == 0) continue;
        Units outputs{linear.outputs, 0};
        for (int64_t b = 0; b < blocks; ++b) {
          const int64_t output = outputAt(call, *linear.blocks[static_cast<size_t>(b)], part, unit);
          outputs.begin = std::min(outputs.begin, output);
          outputs.end = std::max(outputs.end, output);
        }
        putTogether(part.call, outputs);
      }
    }
  }

  // Of all columns.
  void putTogether(int32_t call, Units outputs) const {
    if (outputs.count() <= 0) return;
    const LinearCall& of = calls_[static_cast<size_t>(call)];
    for (int64_t c = 0; c < columns_; ++c) {
      gatherOutputs(of, scratch_.places[static_cast<size_t>(call)], scratch_.latent.data() + c * scratch_.width,
                    outputs.begin, outputs.end, of.y + c * of.linear->outputs);
    }
  }

  float* latent(int32_t call, int32_t block) const {
    return scratch_.latent.data() + scratch_.places[static_cast<size_t>(call)][static_cast<size_t>(block)];
  }

  std::span<const LinearCall> calls_;
  const float* x_;
  int64_t columns_;
  int threads_;
  std::span<const LinearCall> next_;
  LinearScratch& scratch_;
  const DecodePhase* phase_ = nullptr;
  int shares_ = 0;
};

}  // namespace

void DecodePhase::clear() {
  parts.clear();
  units = bytes = 0;
}

void DecodePhase::add(Part part) {
  part.first = units;
  parts.push_back(part);
  units += part.units;
  bytes += part.bytes;
}

const DecodePhase::Part& DecodePhase::partOf(int64_t unit) const {
  size_t i = 0;
  while (unit >= parts[i].first + parts[i].units) ++i;
  return parts[i];
}

int64_t DecodePhase::shareBegin(int i, int n) const {
  if (i == 0) return 0;
  if (i == n) return units;
  int64_t left = bytes * i / n;
  for (const Part& part : parts) {
    if (left < part.bytes) return part.first + (left * part.units + part.bytes / 2) / part.bytes;
    left -= part.bytes;
  }
  return units;
}

void decodeLinears(const LinearCall* calls, int count, const float* x, int64_t columns, int threads,
                   std::span<const LinearCall> next, LinearScratch& scratch) {
  Decoding({calls, static_cast<size_t>(count)}, x, columns, threads, next, scratch).run();
}

}  // namespace flrc
