// What a prompt's length changes of how it goes through a model.

#include <algorithm>
#include <cmath>
#include <numeric>

#include "check.h"
#include "runtime/notes.h"
#include "runtime/pass.h"
#include "runtime/prefill_steps.h"
#include "test/runtime/random_model.h"

using namespace flrc::gpu;
using test::kNever;

namespace {

std::vector<float> statesOf(flrc::DeviceModel& model, int count) {
  flrc::DeviceSequence sequence(model);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), 1);
  std::vector<flrc::BackendRow> rows;
  for (int64_t t = 0; t < count; ++t) rows.push_back({&sequence, t});
  flrc::DevicePass(model).run(tokens.data(), rows.data(), count, 0, kNever);
  std::vector<float> states(static_cast<size_t>(count * model.hidden));
  model.queue.download(model.prefill->states(), 0, states.size(), states.data());
  return states;
}

test::Shape smallShape(test::Storage storage) {
  return {.hidden = 24,
          .heads = 1,
          .kvHeads = 1,
          .intermediate = 40,
          .layers = 1,
          .storage = storage,
          .extras = true};
}

}  // namespace

TEST("prefill: prompts of many lengths are products of few sizes, which what is behind them does not change") {
  for (const test::Storage storage : {test::Storage::dense, test::Storage::plain, test::Storage::pivoted}) {
    const test::RandomModel random(smallShape(storage));
    flrc::DeviceModel model(random.description, kNever);
    const std::vector<float> alone = statesOf(model, 17);
    const size_t plans = model.prefill->plans();
    CHECK(plans > 0);
    for (const int count : {64, 33}) statesOf(model, count);
    CHECK(statesOf(model, 17) == alone);
    CHECK_EQUAL(model.prefill->plans(), plans);
    statesOf(model, 70);
    CHECK_EQUAL(model.prefill->plans(), plans);
    statesOf(model, 17);
    CHECK_EQUAL(model.prefill->plans(), 2 * plans);
  }
}

TEST("prefill: products that cuBLAS has no algorithm for are made without it, and that is said") {
  for (const test::Storage storage : {test::Storage::dense, test::Storage::plain, test::Storage::pivoted}) {
    const test::RandomModel random(smallShape(storage));
    flrc::DeviceModel model(random.description, kNever);
    const std::vector<float> expected = statesOf(model, 17);
    emulatedUnserved = [](const Product& product) { return product.outputs % 3 != 0; };
    const std::vector<float> got = statesOf(model, 17);
    emulatedUnserved = nullptr;
    float largest = 0;
    for (const float state : expected) largest = std::max(largest, std::abs(state));
    bool same = true;
    for (size_t i = 0; i < got.size(); ++i) {
      // Inputs are rounded to bf16 or not.
      CHECK_NEAR(got[i], expected[i], 0x1p-6 * largest);
      same = same && got[i] == expected[i];
    }
    CHECK(!same);
    CHECK(notes().find("no algorithm for some products of prompts") != std::string::npos);
  }
}
