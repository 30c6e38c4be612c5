#include "calibrate/spill_store.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "check.h"
#include "temporary.h"

TEST("spill store: a slot that goes to the file holds no memory, and one that ends gives its own back") {
  constexpr int64_t kBytes = 4000;
  const auto space = std::make_shared<flrc::SpillSpace>(kBytes, temporary::folder());
  {
    flrc::SpillStore store(space, 2);
    check::Random random(1);
    const std::vector<float> few = random.floats(1000), many = random.floats(1001);
    store.put(0, few.data(), few.size());
    CHECK_EQUAL(store.memoryBytes(), kBytes);
    store.put(0, many.data(), many.size());
    CHECK_EQUAL(store.memoryBytes(), 0);
    CHECK_EQUAL(space->memoryLeft(), kBytes);
    store.put(1, few.data(), few.size());
    CHECK_EQUAL(store.memoryBytes(), kBytes);
    CHECK_EQUAL(space->memoryLeft(), 0);
    std::vector<float> scratch;
    const float* values = store.get(0, scratch);
    CHECK(std::equal(many.begin(), many.end(), values));
  }
  CHECK_EQUAL(space->memoryLeft(), kBytes);
}
