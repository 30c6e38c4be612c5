// A step in one launch (kernels/step.h, runtime/step_program.h) against the same step in many: bit for bit.

#include <cmath>
#include <memory>

#include "check.h"
#include "runtime/pass.h"
#include "runtime/step_program.h"
#include "tensor/matrix.h"
#include "test/barriers.h"
#include "test/runtime/random_model.h"

using namespace flrc::gpu;
using flrc::Dtype;
using flrc::StepWay;
using test::kNever;
using test::kVocab;
using test::RandomModel;
using test::Shape;
using test::Storage;

namespace {

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
