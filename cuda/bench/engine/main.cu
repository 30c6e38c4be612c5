// Times a whole model on a GPU, through the table that the core calls: prefill, and decoding dense (in bf16,
// int8 and int4), at half the block parameters, with a budget that falls while tokens are written, and several
// sequences at once. The model has the shape of Llama 3.2 1B and weights that mean nothing. A token alone is
// timed both ways, in one launch and in many, after it has been seen that it gets the logits bit for bit that
// it gets in a batch; where it does not in one launch, only many are timed, and the exit status is 1. Prints a
// table; with a file name, writes JSON there as well.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "backend.h"
#include "runtime/model.h"
#include "tensor/matrix.h"
#include "test/noise.h"

extern "C" const flrc::Backend* flrc_backend();

namespace {

using flrc::Backend;
using flrc::BackendFailure;
using flrc::Dtype;

constexpr int64_t kLayers = 16, kHidden = 2048, kHeads = 32, kKvHeads = 8, kHeadDim = 64, kIntermediate = 8192;
constexpr int64_t kVocab = 128256, kContext = 4096;
constexpr int64_t kPrompt = 512;
constexpr int kTokens = 128;
constexpr int kRounds = 5;

struct Shape {
  int64_t rows, cols;
};
constexpr Shape kShapes[flrc::kBackendProjections] = {
    {kHeads * kHeadDim, kHidden}, {kKvHeads * kHeadDim, kHidden}, {kKvHeads * kHeadDim, kHidden},
    {kHidden, kHeads* kHeadDim},  {kIntermediate, kHidden},       {kIntermediate, kHidden},
    {kHidden, kIntermediate}};

template <typename Call>
void must(const Call& call) {
  BackendFailure failure{};
  if (call(&failure) != flrc::BackendCode::ok) throw std::runtime_error(failure.message);
}

flrc::BackendRows rowsOf(const flrc::RowMatrix& m) {
  return {m.dtype, m.rows, m.cols, m.stride, m.data.data(), m.scale.data(), m.zero.data()};
}

// The rank whose pivoted block, or plain factors, keep `share` of a matrix's parameters.
int64_t rankOf(Shape shape, double share, bool pivoted) {
  const auto m = static_cast<double>(shape.rows), n = static_cast<double>(shape.cols);
  const double half = (m + n) / 2;
  const double rank = pivoted ? half - std::sqrt(half * half - share * m * n) : share * m * n / (m + n);
  return static_cast<int64_t>(rank) / 8 * 8;
}

struct Block {
  flrc::RowMatrix p;
  flrc::PanelMatrix c;
  std::vector<int32_t> pivot, gather;
};

enum class Storage { pivoted, plain };

// Bytes of a weight, with its part of what a group is scaled by.
double bytesOf(Dtype dtype) {
  const int64_t scales = (flrc::hasScale(dtype) ? 2 : 0) + (flrc::hasZero(dtype) ? 1 : 0);
  return static_cast<double>(flrc::gpu::groupBytes(dtype) + scales) / static_cast<double>(flrc::kGroup);
}

// A model of these levels (shares of the block parameters, falling; none: dense), in pivoted blocks, or in
// plain factors of one level.
class Model {
 public:
  explicit Model(const std::vector<double>& shares, Storage storage = Storage::pivoted,
                 Dtype dtype = Dtype::bf16)
      : pivoted_(storage == Storage::pivoted), dtype_(dtype), norm_(kHidden, 1.0f) {
    // As models are loaded.
    embedding_ = flrc::allocateRows(kVocab, kHidden, dtype == Dtype::int4 ? Dtype::int8 : dtype);
    test::fillWithNoise(embedding_, 1);
    for (int64_t i = 0; i < kHeadDim / 2; ++i) {
      frequencies_.push_back(std::pow(5e5, -2.0 * static_cast<double>(i) / kHeadDim));
    }
    ranks_.resize(std::max<size_t>(1, shares.size()));
    for (int64_t l = 0; l < kLayers; ++l) {
      flrc::BackendLayer layer{norm_.data(), norm_.data(), nullptr, nullptr, nullptr, nullptr, 0, 0, {}};
      for (int p = 0; p < flrc::kBackendProjections; ++p) add(layer.projections[p], kShapes[p], shares);
      layers_.push_back(layer);
    }
    for (const auto& level : ranks_) levels_.push_back(level.data());
    rope_ = {kHeadDim / 2, frequencies_.data(), 1};
  }

  flrc::BackendModel describe() const {
    return {sizeof(flrc::BackendModel),
            kLayers,
            kHidden,
            kHeads,
            kKvHeads,
            kHeadDim,
            kIntermediate,
            kVocab,
            kContext,
            1e-5f,
            &rope_,
            1,
            flrc::Activation::silu,
            1,
            1,
            1,
            rowsOf(embedding_),
            rowsOf(embedding_),
            norm_.data(),
            layers_.data(),
            static_cast<int64_t>(levels_.size()),
            levels_.data(),
            nullptr};
  }

  // Of weights read for one token.
  double bytes(size_t level) const {
    double values = 0;
    for (size_t i = 0; i < ranks_[level].size(); ++i) {
      const Shape shape = kShapes[i % flrc::kBackendProjections];
      int64_t left = ranks_[level][i];
      if (left < 0) values += static_cast<double>(shape.rows * shape.cols);
      for (size_t b = 0; left > 0; ++b) {
        const int64_t rank = blockRanks_[i][b];
        values += static_cast<double>(rank * (shape.rows + shape.cols - (pivoted_ ? rank : 0)));
        left -= rank;
      }
    }
    return bytesOf(dtype_) * values + bytesOf(embedding_.dtype) * kVocab * kHidden;
  }

 private:
  void add(flrc::BackendLinear& to, Shape shape, const std::vector<double>& shares) {
    to = {shape.rows, shape.cols, nullptr, nullptr, 0, pivoted_, nullptr};
    blockRanks_.emplace_back();
    if (shares.empty()) {
      dense_.push_back(std::make_unique<flrc::RowMatrix>(flrc::allocateRows(shape.rows, shape.cols, dtype_)));
      test::fillWithNoise(*dense_.back(), dense_.size());
      denseRows_.push_back(std::make_unique<flrc::BackendRows>(rowsOf(*dense_.back())));
      to.dense = denseRows_.back().get();
      ranks_[0].push_back(-1);
      return;
    }
    // Blocks from the lowest level up.
    auto described = std::make_unique<std::vector<flrc::BackendBlock>>();
    int64_t below = 0;
    for (size_t l = shares.size(); l-- > 0;) {
      const int64_t rank = std::max<int64_t>(8, rankOf(shape, shares[l], pivoted_) - below);
      below += rank;
      ranks_[l].push_back(static_cast<int32_t>(below));
      blockRanks_.back().push_back(rank);
      described->push_back(block(shape, rank));
    }
    to.blocks = described->data();
    to.blockCount = static_cast<int64_t>(described->size());
    described_.push_back(std::move(described));
  }

  flrc::BackendBlock block(Shape shape, int64_t rank) {
    auto made = std::make_unique<Block>();
    made->p = flrc::allocateRows(rank, shape.cols, dtype_);
    made->c = flrc::allocatePanels(rank, pivoted_ ? shape.rows - rank : shape.rows, dtype_);
    test::fillWithNoise(made->p, blocks_.size());
    test::fillWithNoise(made->c, blocks_.size() + 1);
    if (pivoted_) placePivots(*made, shape, rank);
    const flrc::BackendPanels panels = {made->c.dtype,       made->c.outputs,      made->c.rank,
                                        made->c.data.data(), made->c.scale.data(), made->c.zero.data()};
    const flrc::BackendBlock described = {rowsOf(made->p), panels, pivoted_ ? made->pivot.data() : nullptr,
                                          pivoted_ ? made->gather.data() : nullptr};
    blocks_.push_back(std::move(made));
    return described;
  }

  // Every so many outputs is a pivot.
  static void placePivots(Block& block, Shape shape, int64_t rank) {
    block.gather.resize(static_cast<size_t>(shape.rows));
    int32_t rest = static_cast<int32_t>(rank);
    for (int64_t o = 0; o < shape.rows; ++o) {
      const auto taken = static_cast<int64_t>(block.pivot.size());
      const bool pivot = taken < rank && o >= taken * shape.rows / rank;
      block.gather[static_cast<size_t>(o)] = pivot ? static_cast<int32_t>(taken) : rest++;
      if (pivot) block.pivot.push_back(static_cast<int32_t>(o));
    }
  }

  bool pivoted_;
  Dtype dtype_;
  std::vector<float> norm_;
  std::vector<double> frequencies_;
  flrc::BackendRope rope_{};
  flrc::RowMatrix embedding_;
  std::vector<std::unique_ptr<flrc::RowMatrix>> dense_;
  std::vector<std::unique_ptr<flrc::BackendRows>> denseRows_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<std::unique_ptr<std::vector<flrc::BackendBlock>>> described_;
  std::vector<std::vector<int64_t>> blockRanks_;  // by projection
  std::vector<std::vector<int32_t>> ranks_;       // by level
  std::vector<const int32_t*> levels_;
  std::vector<flrc::BackendLayer> layers_;
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

struct Timing {
  double prefillSeconds, stepSeconds;
};

// Medians over rounds of a prompt and of steps after it, in each of which every sequence gets a token; step i
// of kTokens at levelOf(i).
template <typename LevelOf>
Timing timeModel(const Backend& table, flrc::DeviceModel* model, int sequences, const LevelOf& levelOf) {
  const flrc::BackendCancel never = {nullptr, [](void*) { return false; }};
  flrc::DevicePass* pass = nullptr;
  must([&](BackendFailure* f) { return table.createPass(model, &pass, f); });
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < kPrompt; ++i) prompt.push_back(i * 97 % static_cast<int32_t>(kVocab));
  std::vector<double> prefill, step;
  auto seconds = [from = std::chrono::steady_clock::now()]() mutable {
    const auto now = std::chrono::steady_clock::now();
    const double passed = std::chrono::duration<double>(now - from).count();
    from = now;
    return passed;
  };
  const auto count = static_cast<size_t>(sequences);
  std::vector<int64_t> all(count);
  std::iota(all.begin(), all.end(), 0);
  // The first round records the graphs.
  for (int round = -1; round < kRounds; ++round) {
    std::vector<flrc::DeviceSequence*> each(count);
    std::vector<int32_t> next(count);
    std::vector<flrc::BackendRow> rows;
    // The likeliest tokens of `some` sequences from `first` on.
    const auto sample = [&](size_t first, size_t some) {
      std::vector<flrc::BackendDraw> draws;
      for (size_t s = first; s < first + some; ++s) draws.push_back({each[s], {}});
      std::vector<flrc::BackendSampled> sampled(some);
      must([&](BackendFailure* f) {
        return table.sample(draws.data(), static_cast<int64_t>(some), sampled.data(), f);
      });
      for (size_t s = 0; s < some; ++s) next[first + s] = sampled[s].token;
    };
    for (size_t s = 0; s < count; ++s) {
      must([&](BackendFailure* f) { return table.createSequence(model, &each[s], f); });
      rows.clear();
      for (int64_t t = 0; t < kPrompt; ++t) rows.push_back({each[s], t});
      const int64_t last = kPrompt - 1;
      seconds();
      must([&](BackendFailure* f) {
        return table.run(pass, prompt.data(), rows.data(), kPrompt, levelOf(0), &never, f);
      });
      must([&](BackendFailure* f) { return table.keepLogits(pass, &last, 1, f); });
      sample(s, 1);
      if (round >= 0) prefill.push_back(seconds());
    }
    seconds();
    for (int i = 0; i < kTokens; ++i) {
      rows.clear();
      for (size_t s = 0; s < count; ++s) rows.push_back({each[s], kPrompt + i});
      must([&](BackendFailure* f) {
        return table.run(pass, next.data(), rows.data(), sequences, levelOf(i), &never, f);
      });
      must([&](BackendFailure* f) { return table.keepLogits(pass, all.data(), sequences, f); });
      sample(0, count);
    }
    if (round >= 0) step.push_back(seconds() / kTokens);
    for (flrc::DeviceSequence* sequence : each) table.releaseSequence(sequence);
  }
  table.releasePass(pass);
  return {median(prefill), median(step)};
}

// Whether a token's logits are the same alone and beside another sequence's token.
bool isSameAlone(const Backend& table, flrc::DeviceModel* model, int levels) {
  const flrc::BackendCancel never = {nullptr, [](void*) { return false; }};
  constexpr int64_t kLength = 200;
  flrc::DevicePass* pass = nullptr;
  must([&](BackendFailure* f) { return table.createPass(model, &pass, f); });
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < kLength; ++i) prompt.push_back(i * 89 % static_cast<int32_t>(kVocab));
  const auto run = [&](const std::vector<flrc::DeviceSequence*>& sequences, int64_t position, int level) {
    std::vector<flrc::BackendRow> rows;
    for (flrc::DeviceSequence* sequence : sequences) rows.push_back({sequence, position});
    const auto count = static_cast<int64_t>(rows.size());
    must([&](BackendFailure* f) {
      return table.run(pass, prompt.data() + position % kLength, rows.data(), count, level, &never, f);
    });
    std::vector<float> logits(kVocab);
    const int64_t first = 0;
    must([&](BackendFailure* f) { return table.logits(pass, &first, 1, logits.data(), f); });
    return logits;
  };
  std::vector<flrc::DeviceSequence*> each(3);
  for (flrc::DeviceSequence*& sequence : each) {
    must([&](BackendFailure* f) { return table.createSequence(model, &sequence, f); });
    std::vector<flrc::BackendRow> rows;
    for (int64_t t = 0; t < kLength; ++t) rows.push_back({sequence, t});
    must([&](BackendFailure* f) { return table.run(pass, prompt.data(), rows.data(), kLength, 0, &never, f); });
  }
  bool isSame = true;
  for (int step = 0; step < 4; ++step) {
    const int level = step % levels;
    isSame &= run({each[0]}, kLength + step, level) == run({each[1], each[2]}, kLength + step, level);
  }
  for (flrc::DeviceSequence* sequence : each) table.releaseSequence(sequence);
  table.releasePass(pass);
  return isSame;
}

struct Row {
  std::string name;
  int sequences;
  double bytes;  // of weights, a step
  Timing timing;
};

struct Chip {
  std::string name;
  double bandwidth;  // of reading, measured, bytes a second
};

// The table's last column is how much of the dense model's speed over that of this one's bytes is reached: 1 is
// as fast as the smaller size promises.
void print(const Row& row, const Row& dense, const Chip& chip) {
  const double rate = row.bytes / row.timing.stepSeconds;
  const double promised = dense.timing.stepSeconds * row.bytes / dense.bytes;
  std::printf("%-34s %9d %8.1f %11.0f %9.1f %11.1f %10.1f%% %9.1f%%\n", row.name.c_str(), row.sequences,
              row.bytes / 1e6, static_cast<double>(kPrompt) / row.timing.prefillSeconds,
              row.timing.stepSeconds * 1e6, row.sequences / row.timing.stepSeconds, 100 * rate / chip.bandwidth,
              100 * promised / row.timing.stepSeconds);
  std::fflush(stdout);
}

void writeJson(const char* file, const Chip& chip, const std::vector<Row>& rows) {
  std::FILE* out = std::fopen(file, "w");
  if (!out) throw std::runtime_error(std::string("cannot write ") + file);
  std::fprintf(out,
               "{\n  \"device\": \"%s\",\n  \"bandwidth\": %.6g,\n  \"prompt\": %d,\n  \"tokens\": %d,\n  "
               "\"rows\": [",
               chip.name.c_str(), chip.bandwidth, static_cast<int>(kPrompt), kTokens);
  for (size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    std::fprintf(out,
                 "%s\n    {\"name\": \"%s\", \"sequences\": %d, \"bytesPerStep\": %.0f, \"prefillSeconds\": "
                 "%.6g, \"stepSeconds\": %.6g}",
                 i > 0 ? "," : "", row.name.c_str(), row.sequences, row.bytes, row.timing.prefillSeconds,
                 row.timing.stepSeconds);
  }
  std::fprintf(out, "\n  ]\n}\n");
  std::fclose(out);
}

}  // namespace

int main(int count, char** arguments) {
  const Backend& table = *flrc_backend();
  BackendFailure failure{};
  if (table.score(&failure) == 0) {
    std::fprintf(stderr, "%s\n", failure.message);
    return 1;
  }
  flrc::BackendDevice device{};
  must([&](BackendFailure* f) { return table.describe(&device, f); });
  Chip chip{device.name, 0};
  must([&](BackendFailure* f) { return table.readBandwidth(&chip.bandwidth, f); });
  std::printf("%s, %.0f GB/s of reading measured: 1B shape, prompt of %d tokens, %d written\n",
              chip.name.c_str(), chip.bandwidth / 1e9, static_cast<int>(kPrompt), kTokens);
  std::printf("%-34s %9s %8s %11s %9s %11s %11s %10s\n", "model", "sequences", "MB/step", "prompt, t/s",
              "us/step", "written, t/s", "bandwidth", "promised");
  const flrc::BackendCancel never = {nullptr, [](void*) { return false; }};
  std::vector<Row> rows;
  bool failed = false;
  const auto withModel = [&](const Model& model, const auto& body) {
    const flrc::BackendModel described = model.describe();
    flrc::DeviceModel* weights = nullptr;
    must([&](BackendFailure* f) { return table.createModel(&described, &never, &weights, f); });
    const auto isSame = [&](flrc::StepWay way) {
      weights->stepWay = way;
      return isSameAlone(table, weights, static_cast<int>(described.levels));
    };
    if (!isSame(flrc::StepWay::launches)) {
      throw std::runtime_error("a token gets other logits alone than in a batch");
    }
    const bool whole = isSame(flrc::StepWay::whole);
    if (!whole) std::printf("a token gets other logits in one launch than in many, which alone are timed:\n");
    failed |= !whole;
    const auto addOne = [&](const std::string& name, int sequences, double bytes, const auto& levelOf) {
      rows.push_back({name, sequences, bytes, timeModel(table, weights, sequences, levelOf)});
      print(rows.back(), rows.front(), chip);
      // What there is, should there be no time for all.
      if (count > 1) writeJson(arguments[1], chip, rows);
    };
    body([&](const std::string& name, int sequences, double bytes, const auto& levelOf) {
      if (sequences > 1) return addOne(name, sequences, bytes, levelOf);
      weights->stepWay = flrc::StepWay::whole;
      if (whole) addOne(name + ", one launch", 1, bytes, levelOf);
      weights->stepWay = flrc::StepWay::launches;
      addOne(name + ", many", 1, bytes, levelOf);
    });
    table.releaseModel(weights);
  };
  const auto first = [](int) { return 0; };
  {
    const Model model({});
    withModel(model, [&](const auto& add) {
      for (const int sequences : {1, 4, 16}) add("dense", sequences, model.bytes(0), first);
    });
  }
  const auto addOf = [&](const std::string& name, const Model& model) {
    withModel(model, [&](const auto& add) { add(name, 1, model.bytes(0), first); });
  };
  addOf("dense int8", Model({}, Storage::pivoted, Dtype::int8));
  addOf("dense int4", Model({}, Storage::pivoted, Dtype::int4));
  {
    const Model model({0.9, 0.5});
    withModel(model, [&](const auto& add) {
      const double high = model.bytes(0), low = model.bytes(1);
      add("pivoted, .9", 1, high, first);
      for (const int sequences : {1, 16}) add("pivoted, .5", sequences, low, [](int) { return 1; });
      add("pivoted, .9, then .5", 1, (high + low) / 2, [](int i) { return i < kTokens / 2 ? 0 : 1; });
    });
  }
  addOf("plain factors, .5", Model({0.5}, Storage::plain));
  addOf("pivoted int8, .5", Model({0.5}, Storage::pivoted, Dtype::int8));
  return failed ? 1 : 0;
}
