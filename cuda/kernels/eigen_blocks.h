#pragma once

#include "kernels/eigen.h"

namespace flrc::gpu {

// launchEigen behind the Cholesky factor, of matrices too large for one block of threads: pairs of blocks of
// rows are turned by many, a launch a round.
void launchBlockEigen(Stream stream, const EigenParams& params, int batch, const Pace& pace = kNoPace);

}  // namespace flrc::gpu
