#pragma once

#include "backend.h"

namespace flrc::gpu {

// The table's factorize. One at a time is on the device, so that its memory is that of one.
void factorizeProjection(const BackendFactoring& factoring, const BackendCancel& cancel);

}  // namespace flrc::gpu
