// How much of a layer goes on at once.
#include "calibrate/limits.h"

#include "check.h"

using flrc::LayerLimits;
using flrc::layerLimits;

namespace {

constexpr int64_t kGiga = int64_t{1} << 30;

// One layer of Llama-3-8B; depth must not matter.
flrc::ModelConfig eightBillion(int64_t layers) {
  flrc::ModelConfig config;
  config.layers = layers;
  config.hidden = 4096;
  config.heads = 32;
  config.kvHeads = 8;
  config.headDim = 128;
  config.intermediate = 14336;
  config.vocab = 128256;
  return config;
}

}  // namespace

TEST("limits: with room everything goes on at once, and the rest is for the stores") {
  const LayerLimits limits = layerLimits(eightBillion(32), {}, 512, 16, 64 * kGiga);
  CHECK_EQUAL(limits.sequences, 16);
  CHECK_EQUAL(limits.projections, 7);
  CHECK(!limits.oneInput);
  CHECK(limits.shareMemory);
  CHECK(limits.stores > 40 * kGiga && limits.stores < 54 * kGiga);
  CHECK(layerLimits(eightBillion(32), {}, 512, 16, 65 * kGiga).stores == limits.stores + kGiga);
}

TEST("limits: less memory never lets more go on, and one of each always does") {
  LayerLimits before = layerLimits(eightBillion(1), {}, 512, 16, 64 * kGiga);
  bool some = false;
  for (int64_t memory = 63 * kGiga; memory > 0; memory -= kGiga / 2) {
    const LayerLimits now = layerLimits(eightBillion(1), {}, 512, 16, memory);
    CHECK(now.sequences <= before.sequences && now.sequences >= 1);
    CHECK(now.projections >= 1 && now.projections <= 7);
    CHECK(now.oneInput || !before.oneInput);
    CHECK(!now.shareMemory || before.shareMemory);
    CHECK(now.oneInput != before.oneInput || now.projections <= before.projections);
    CHECK(now.stores >= 0 && now.stores <= memory);
    some = some || (now.projections > 1 && now.projections < 7);
    before = now;
  }
  CHECK(some);
  CHECK_EQUAL(before.sequences, 1);
  CHECK_EQUAL(before.projections, 1);
  CHECK(before.oneInput);
}

TEST("limits: depth does not matter, whitening by inputs alone takes less") {
  const LayerLimits shallow = layerLimits(eightBillion(2), {}, 512, 4, 16 * kGiga);
  const LayerLimits deep = layerLimits(eightBillion(80), {}, 512, 4, 16 * kGiga);
  CHECK_EQUAL(shallow.stores, deep.stores);
  CHECK_EQUAL(shallow.projections, deep.projections);
  CHECK(layerLimits(eightBillion(2), {true, false}, 512, 4, 16 * kGiga).stores > shallow.stores);
  CHECK(layerLimits(eightBillion(2), {true, true, true}, 512, 4, 16 * kGiga).stores < shallow.stores);
  CHECK(layerLimits(eightBillion(2), {true, true, false, true}, 512, 4, 16 * kGiga).stores < shallow.stores);
}

TEST("limits: ranking channels holds a square and a half of a layer's width, whatever the depth") {
  const auto config = eightBillion(32);
  const int64_t squares = 12 * 14336 * int64_t{14336}, moments = 32 * 4 * (14336 * int64_t{14337} / 2);
  const flrc::MemoryNeeds needs = flrc::channelMemoryNeeds(config, 64, 512, 4);
  CHECK(needs.least > squares && needs.least < squares + 2 * kGiga);
  CHECK(needs.everything > needs.least + moments + 64 * 512 * 4096 * int64_t{4} * 33);
  CHECK_EQUAL(flrc::channelMemoryNeeds(eightBillion(2), 64, 512, 4).least, needs.least);
  CHECK_EQUAL(flrc::channelLimits(config, 512, 4, needs.least).stores, 0);
  const LayerLimits most = flrc::channelLimits(config, 512, 4, needs.everything);
  CHECK_EQUAL(most.sequences, 4);
  CHECK(most.shareMemory && most.stores > moments);
}

TEST("limits: the least is one thing after another, everything is where more is of no use") {
  const auto config = eightBillion(32);
  const flrc::MemoryNeeds needs = flrc::memoryNeeds(config, {}, 64, 512, 4);
  CHECK(needs.least > kGiga && needs.least < needs.everything);
  const LayerLimits least = layerLimits(config, {}, 512, 4, needs.least);
  CHECK(least.projections == 1 && least.oneInput);
  const LayerLimits most = layerLimits(config, {}, 512, 4, needs.everything);
  CHECK(most.sequences == 4 && most.projections == 4 && !most.oneInput);
  // All layers' factors and boundaries at once.
  const int64_t layerFactors = 4 * (2 * 4096 * 8192 + 2 * 1024 * 5120 + 3 * 4096 * int64_t{18432});
  CHECK(most.stores >= 32 * layerFactors + 64 * 512 * 4096 * int64_t{4} * 33);
  CHECK(flrc::memoryNeeds(config, {}, 1, 512, 1).least == needs.least);
  CHECK(flrc::memoryNeeds(config, {true, false}, 64, 512, 4).least < needs.least);
}
