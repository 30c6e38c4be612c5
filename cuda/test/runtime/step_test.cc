// A step in one launch (kernels/step.h, runtime/step_program.h) against the same step in many: bit for bit.

#include <cmath>
#include <memory>
#include <numeric>
#include <optional>

#include "check.h"
#include "runtime/pass.h"
#include "runtime/step_program.h"
#include "tensor/matrix.h"
#include "test/barriers.h"

using namespace flrc::gpu;
using flrc::Dtype;
using flrc::StepWay;

namespace {

enum class Storage { dense, plain, pivoted };

struct Shape {
  int64_t hidden = 72, heads = 6, kvHeads = 2, headDim = 16, intermediate = 200, layers = 2;
  Storage storage = Storage::dense;
  bool extras = false;  // biases, and norms of queries and keys
  int64_t window = 0;
  bool mixed = false;  // keys and gates stay dense
  Dtype dtype = Dtype::bf16;
  std::vector<int64_t> channels = {};  // of each layer's MLP; none: all of intermediate
};
constexpr int64_t kVocab = 90;
constexpr int64_t kContext = 4096;

// A model of random weights; factored, of two levels. Owns what its description points to.
class RandomModel {
 public:
  explicit RandomModel(const Shape& shape) : shape_(shape), random_(11) {
    embedding_ = rows(kVocab, shape.hidden, shape.dtype == Dtype::int4 ? Dtype::int8 : shape.dtype);
    norm_ = values(shape.hidden);
    headNorm_ = values(shape.headDim);
    for (int64_t i = 0; i < shape.headDim / 2; ++i)
      frequencies_.push_back(std::pow(1e4, -2.0 * i / shape.headDim));
    const int64_t q = shape.heads * shape.headDim, kv = shape.kvHeads * shape.headDim;
    ranks_.resize(levels());
    for (int64_t l = 0; l < shape.layers; ++l) {
      const int64_t ff = shape.channels.empty() ? shape.intermediate : shape.channels[static_cast<size_t>(l)];
      const int64_t sides[flrc::kBackendProjections][2] = {
          {q, shape.hidden},  {kv, shape.hidden}, {kv, shape.hidden}, {shape.hidden, q},
          {ff, shape.hidden}, {ff, shape.hidden}, {shape.hidden, ff}};
      const float* heads = shape.extras ? headNorm_.data() : nullptr;
      flrc::BackendLayer layer{norm_.data(), norm_.data(), heads, heads, nullptr, nullptr, shape.window, 0, {}};
      for (int p = 0; p < flrc::kBackendProjections; ++p) {
        // Of some projections of plain factors the lower level is nothing at all.
        const bool dense = shape.storage == Storage::dense || (shape.mixed && (p == 1 || p == 4));
        add(layer.projections[p], sides[p][0], sides[p][1], dense, l == 1 && p == 3);
      }
      layers_.push_back(layer);
    }
    for (const auto& level : ranks_) levels_.push_back(level.data());
    rope_ = {shape.headDim / 2, frequencies_.data(), 1};
    description = {sizeof(flrc::BackendModel),
                   shape.layers,
                   shape.hidden,
                   shape.heads,
                   shape.kvHeads,
                   shape.headDim,
                   shape.intermediate,
                   kVocab,
                   kContext,
                   1e-5f,
                   &rope_,
                   1,
                   flrc::Activation::silu,
                   1,
                   1,
                   1,
                   rowsOf(*embedding_),
                   rowsOf(*embedding_),
                   norm_.data(),
                   layers_.data(),
                   static_cast<int64_t>(levels_.size()),
                   levels_.data(),
                   nullptr};
  }
  RandomModel(const RandomModel&) = delete;

  size_t levels() const { return shape_.storage == Storage::dense ? 1 : 2; }

  flrc::BackendModel description{};

 private:
  using Rows = std::unique_ptr<flrc::RowMatrix>;

  static flrc::BackendRows rowsOf(const flrc::RowMatrix& m) {
    return {m.dtype, m.rows, m.cols, m.stride, m.data.data(), m.scale.data(), m.zero.data()};
  }
  std::vector<float> values(int64_t count) {
    std::vector<float> some;
    for (const float value : random_.floats(count)) some.push_back(1 + value / 4);
    return some;
  }
  std::vector<float> weights(int64_t outputs, int64_t inputs) {
    std::vector<float> some = random_.floats(outputs * inputs);
    for (float& value : some) value /= std::sqrt(static_cast<float>(inputs));
    return some;
  }
  Rows rows(int64_t count, int64_t width, Dtype dtype) {
    return std::make_unique<flrc::RowMatrix>(
        flrc::makeRows(weights(count, width).data(), count, width, width, dtype));
  }

  void add(flrc::BackendLinear& to, int64_t outputs, int64_t inputs, bool dense, bool vanishes) {
    to = {outputs, inputs, nullptr, nullptr, 0, shape_.storage == Storage::pivoted, nullptr};
    if (shape_.extras) {
      biases_.push_back(std::make_unique<std::vector<float>>(values(outputs)));
      to.bias = biases_.back()->data();
    }
    if (dense) {
      rows_.push_back(rows(outputs, inputs, shape_.dtype));
      dense_.push_back(std::make_unique<flrc::BackendRows>(rowsOf(*rows_.back())));
      to.dense = dense_.back().get();
      for (auto& level : ranks_) level.push_back(-1);
      return;
    }
    const int64_t most = std::min(outputs, inputs), low = vanishes ? 0 : most / 3, high = most * 2 / 3;
    ranks_[0].push_back(static_cast<int32_t>(high));
    ranks_[1].push_back(static_cast<int32_t>(low));
    blocks_.push_back(std::make_unique<std::vector<flrc::BackendBlock>>());
    if (shape_.storage == Storage::plain) {
      blocks_.back()->push_back(block(outputs, inputs, high));
    } else {
      if (low > 0) blocks_.back()->push_back(block(outputs, inputs, low));
      blocks_.back()->push_back(block(outputs, inputs, high - low));
    }
    to.blocks = blocks_.back()->data();
    to.blockCount = static_cast<int64_t>(blocks_.back()->size());
  }

  flrc::BackendBlock block(int64_t outputs, int64_t inputs, int64_t rank) {
    const bool pivoted = shape_.storage == Storage::pivoted;
    const int64_t others = pivoted ? outputs - rank : outputs;
    rows_.push_back(rows(rank, inputs, shape_.dtype));
    panels_.push_back(std::make_unique<flrc::PanelMatrix>(
        flrc::makePanels(weights(rank, others).data(), rank, others, others, shape_.dtype)));
    const flrc::PanelMatrix& c = *panels_.back();
    const flrc::BackendPanels panels{c.dtype, c.outputs, c.rank, c.data.data(), c.scale.data(), c.zero.data()};
    if (!pivoted) return {rowsOf(*rows_.back()), panels, nullptr, nullptr};
    // Every so many outputs is a pivot.
    auto& pivot = *indices_.emplace_back(std::make_unique<std::vector<int32_t>>());
    auto& gather = *indices_.emplace_back(std::make_unique<std::vector<int32_t>>());
    auto rest = static_cast<int32_t>(rank);
    for (int64_t o = 0; o < outputs; ++o) {
      const auto taken = static_cast<int64_t>(pivot.size());
      const bool is = taken < rank && o >= taken * outputs / rank;
      gather.push_back(is ? static_cast<int32_t>(taken) : rest++);
      if (is) pivot.push_back(static_cast<int32_t>(o));
    }
    return {rowsOf(*rows_.back()), panels, pivot.data(), gather.data()};
  }

  Shape shape_;
  check::Random random_;
  Rows embedding_;
  std::vector<float> norm_, headNorm_;
  std::vector<double> frequencies_;
  flrc::BackendRope rope_{};
  std::vector<Rows> rows_;
  std::vector<std::unique_ptr<flrc::PanelMatrix>> panels_;
  std::vector<std::unique_ptr<flrc::BackendRows>> dense_;
  std::vector<std::unique_ptr<std::vector<int32_t>>> indices_;
  std::vector<std::unique_ptr<std::vector<float>>> biases_;
  std::vector<std::unique_ptr<std::vector<flrc::BackendBlock>>> blocks_;
  std::vector<std::vector<int32_t>> ranks_;
  std::vector<const int32_t*> levels_;
  std::vector<flrc::BackendLayer> layers_;
};

const flrc::BackendCancel kNever = {nullptr, [](void*) { return false; }};

// A chip on which one block does all, one with several, and two whose rings have room for little.
struct Chip {
  int blocks, sharedBytes;
};
const std::vector<Chip> kChips = {{1, 227 * 1024}, {3, 227 * 1024}, {7, 110 * 1024}, {5, 170 * 1024}};

// A sequence whose cache holds random keys and values before `position`.
std::unique_ptr<flrc::DeviceSequence> sequenceOf(flrc::DeviceModel& model, int64_t position) {
  auto sequence = std::make_unique<flrc::DeviceSequence>(model);
  sequence->reserve(position + 1);
  check::Random random(static_cast<uint64_t>(position));
  for (Buffer<uint16_t>* cache : {&sequence->keys, &sequence->values}) {
    std::vector<uint16_t> bits;
    for (const float value : random.floats(static_cast<int64_t>(cache->count()))) {
      bits.push_back(flrc::floatToBf16(value));
    }
    model.queue.upload(*cache, bits.data());
  }
  sequence->length = position;
  return sequence;
}

struct Written {
  std::vector<std::vector<float>> logits;
  std::vector<uint16_t> keys, values;
  bool operator==(const Written&) const = default;
};

// Logits of a few tokens from `position` on, at the model's levels in turn, and what is in the cache then.
Written write(const RandomModel& of, StepWay way, const Chip& chip, int64_t position) {
  flrc::DeviceModel model(of.description, kNever);
  model.stepWay = way;
  model.limits.multiprocessors = chip.blocks;
  model.limits.sharedBytes = chip.sharedBytes;
  CHECK(StepProgram::serves(model));
  const auto sequence = sequenceOf(model, position);
  flrc::DevicePass pass(model);
  Written written;
  for (int step = 0; step < 2; ++step) {
    const int32_t token = 3 + 7 * step;
    const flrc::BackendRow row{sequence.get(), position + step};
    pass.run(&token, &row, 1, step % static_cast<int>(of.levels()), kNever);
    const int64_t first = 0;
    written.logits.emplace_back(kVocab);
    pass.logits(&first, 1, written.logits.back().data());
  }
  written.keys.resize(sequence->keys.count());
  written.values.resize(sequence->values.count());
  model.queue.download(sequence->keys, 0, written.keys.size(), written.keys.data());
  model.queue.download(sequence->values, 0, written.values.size(), written.values.data());
  return written;
}

void compare(const Shape& shape, const std::vector<int64_t>& positions,
             const std::vector<Chip>& chips = kChips) {
  const RandomModel model(shape);
  for (const int64_t position : positions) {
    const Written expected = write(model, StepWay::launches, kChips[1], position);
    for (const float logit : expected.logits.back()) CHECK(std::isfinite(logit));
    size_t served = 0;
    for (const Chip& chip : chips) {
      flrc::DeviceModel probe(model.description, kNever);
      probe.limits.sharedBytes = chip.sharedBytes;
      if (!StepProgram::serves(probe)) continue;
      CHECK(write(model, StepWay::whole, chip, position) == expected);
      ++served;
    }
    CHECK(served > 0 && served + 1 >= chips.size());
  }
}

}  // namespace

TEST("step: dense, plain factors and pivoted blocks, with biases and norms of heads and without") {
  for (const Storage storage : {Storage::dense, Storage::plain, Storage::pivoted}) {
    compare({.storage = storage, .extras = storage != Storage::plain}, {5});
  }
  for (const Storage storage : {Storage::plain, Storage::pivoted}) {
    compare({.layers = 1, .storage = storage, .mixed = true}, {5});
  }
}

TEST("step: int8 and int4, dense, in plain factors and in pivoted blocks") {
  compare({.layers = 1, .extras = true, .dtype = Dtype::int8}, {5});
  compare({.layers = 1, .storage = Storage::pivoted, .mixed = true, .dtype = Dtype::int8}, {5});
  compare({.layers = 1, .storage = Storage::pivoted, .extras = true, .dtype = Dtype::int4}, {5});
}

TEST("step: int8 and int4 rows of many strips, and panels of many units") {
  // Slices of more than a copy's strips, and blocks with more units than there is room for at once.
  const auto checkDtype = [](Dtype dtype, int64_t wide) {
    compare({.hidden = 24,
             .heads = 1,
             .kvHeads = 1,
             .headDim = 8,
             .intermediate = wide,
             .layers = 1,
             .dtype = dtype},
            {3}, {kChips[3]});
    compare({.hidden = 200,
             .heads = 1,
             .kvHeads = 1,
             .intermediate = 700,
             .layers = 1,
             .storage = Storage::plain,
             .dtype = dtype},
            {3}, {kChips[0], kChips[3]});
  };
  checkDtype(Dtype::int8, 5200);
  checkDtype(Dtype::int4, 8400);
}

TEST("step: attention to one chunk of the positions, to several, to groups of them, and to the last ones") {
  compare({.layers = 1}, {0, 127, 300});
  compare({.heads = 2, .layers = 1}, {2047});
  compare({.headDim = 64, .layers = 1, .window = 100}, {90, 700});
  compare({.heads = 5, .kvHeads = 1, .headDim = 128, .layers = 1}, {140});
}

TEST("step: rows of many strips, whose slices are uneven and take several copies") {
  compare({.hidden = 40, .heads = 2, .kvHeads = 1, .intermediate = 6200, .layers = 1}, {3});
  compare({.hidden = 2100, .heads = 1, .kvHeads = 1, .headDim = 8, .intermediate = 40, .layers = 1}, {3});
  compare(
      {.hidden = 420, .heads = 1, .kvHeads = 1, .intermediate = 600, .layers = 1, .storage = Storage::plain},
      {3});
}

TEST("step: layers whose MLPs have fewer channels than those before them") {
  for (const Storage storage : {Storage::dense, Storage::plain, Storage::pivoted}) {
    const bool extras = storage == Storage::pivoted;
    compare({.layers = 3, .storage = storage, .extras = extras, .channels = {200, 37, 61}}, {5});
  }
  compare({.storage = Storage::pivoted, .dtype = Dtype::int4, .channels = {131, 70}}, {5});
}

TEST("step: other ways where the weights, the layers, the chip or the length are not for it") {
  const RandomModel random({});
  flrc::DeviceModel model(random.description, kNever);
  CHECK(StepProgram::serves(model));
  model.activation = flrc::Activation::geluTanh;
  CHECK(!StepProgram::serves(model));
  model.activation = flrc::Activation::silu;
  model.residualScale = 0.5f;
  CHECK(!StepProgram::serves(model));
  model.residualScale = 1;
  model.layers[1].rope = -1;
  CHECK(!StepProgram::serves(model));
  model.layers[1].rope = 0;
  model.layers[1].attentionOutputNorm = Buffer<float>(1);
  CHECK(!StepProgram::serves(model));
  model.layers[1].attentionOutputNorm = {};
  model.limits.sharedBytes = 48 * 1024;
  CHECK(!StepProgram::serves(model));
  model.limits = currentDevice();
  model.limits.hopper = false;
  CHECK(!StepProgram::serves(model));
  model.limits = currentDevice();
  CHECK(StepProgram::serves(model));
}

TEST("step: other ways where blocks without outputs could be left behind by the others") {
  for (const Storage storage : {Storage::dense, Storage::plain, Storage::pivoted}) {
    const RandomModel random({.layers = 1, .storage = storage});
    flrc::DeviceModel model(random.description, kNever);
    const auto fits = [&](int blocks) {
      model.limits.multiprocessors = blocks;
      return StepProgram(model, 0, StepBuffers(model, 1), {}).fits();
    };
    // Queries, keys and values have 160 outputs.
    CHECK(fits(20));
    CHECK(!fits(161));
  }
  const RandomModel random({.layers = 1});
  const Written expected = write(random, StepWay::launches, kChips[1], 5);
  CHECK(write(random, StepWay::whole, {161, 227 * 1024}, 5) == expected);
}

TEST("barriers: a step in one launch") {
  for (const Dtype dtype : {Dtype::bf16, Dtype::int4}) {
    const RandomModel random({.layers = 1, .storage = Storage::pivoted, .dtype = dtype});
    CHECK_EVERY_BARRIER(
        [&](test::Device& device) {
          flrc::DeviceModel model(random.description, kNever);
          model.limits.multiprocessors = 3;
          constexpr int64_t kPosition = 1100;
          const auto sequence = sequenceOf(model, kPosition);
          const CacheRow row{sequence->keys.global(), sequence->values.global(),
                             sequence->capacity * model.kvWidth(), static_cast<int>(kPosition), 3};
          check::Random numbers(5);
          const auto floats = [&](int64_t count) {
            const std::vector<float> values = numbers.floats(count);
            return Buffer<float>(values.data(), values.size());
          };
          const Buffer<CacheRow> rows(&row, 1);
          const Buffer<float> x = floats(model.hidden), cosine = floats((kPosition + 1) * model.headDim / 2),
                              sine = floats((kPosition + 1) * model.headDim / 2), logits(kVocab);
          const StepBuffers buffers(model, kPosition + 1);
          const StepProgram program(model, 0, buffers,
                                    {rows.read(),
                                     x.read(),
                                     {cosine.read(), sine.read(), static_cast<int>(model.headDim / 2)},
                                     logits.global()});
          // Twice: what the first leaves in shared memory and in buffers is none of the second's business.
          std::string all;
          for (int i = 0; i < 2; ++i) {
            program.enqueue(device.stream());
            device.synchronise();
            all.append(reinterpret_cast<const char*>(logits.memory()->begin()), logits.bytes());
          }
          return all;
        },
        100);
  }
}
