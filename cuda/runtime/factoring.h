#pragma once

#include "backend.h"

namespace flrc::gpu {

// The table's factorize.
void factorizeProjection(const BackendFactoring& factoring, const BackendCancel& cancel);

}  // namespace flrc::gpu
