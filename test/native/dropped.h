#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/loader.h"
#include "temporary.h"

// A fixture's model (fixture.h) whose layers keep the first channels[l] channels of their MLPs, and one of the
// whole shape that computes the same: what the other channels have is zero there.
struct Dropped {
  Dropped(const std::string& fixture, const std::vector<int64_t>& channels, int threads);

  flrc::ModelSpec narrow, zeroed;

 private:
  temporary::File file_;
};
