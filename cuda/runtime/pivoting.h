#pragma once

#include "backend.h"

namespace flrc::gpu {

// The table's pivotedQr.
int64_t pivotedQrOf(const float* u, int64_t s, int64_t m, double* r, int32_t* column,
                    const BackendCancel& cancel);

}  // namespace flrc::gpu
