#pragma once

#include "backend.h"

namespace flrc {

// The table of the CPU: computes with the core's own Model, copies nothing of it.
const Backend& cpuBackend();

}  // namespace flrc
