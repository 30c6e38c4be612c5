#pragma once

#include "kernels/calibrate.h"

// Fisher scores, moments and thin products by warpgroup products, which sm_90a alone has. What they compute is
// in calibrate.h, whose launches take these where they can.

namespace flrc::gpu {

// Rows of p.partial.
int warpgroupFisherParts(const FisherParams& params);
// On `blocks` multiprocessors.
void launchWarpgroupFisher(Stream stream, Dtype dtype, const FisherParams& params, int blocks);
void launchWarpgroupMoment(Stream stream, const MomentParams& params, int blocks);
void launchWarpgroupThinProduct(Stream stream, const ThinProductParams& params, int blocks);

}  // namespace flrc::gpu
