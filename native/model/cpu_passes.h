#pragma once

#include "backend.h"

// The functions of the CPU's table for passes of whole sequences.

namespace flrc {

BackendCode cpuCreateLayerPass(DeviceModel* model, int64_t layer, int64_t longest, const void* host,
                               DeviceLayerPass** out, BackendFailure* failure);
void cpuReleaseLayerPass(DeviceLayerPass* pass);
BackendCode cpuLayerForward(DeviceLayerPass* pass, const float* x, int64_t tokens, float* y,
                            const BackendCancel* cancel, BackendFailure* failure);
BackendCode cpuLayerBackward(DeviceLayerPass* pass, const float* x, int64_t tokens, const float* dy, float* dx,
                             double (*scores)[3], const BackendTapes* tapes, const BackendSums* sums,
                             const BackendCancel* cancel, BackendFailure* failure);
bool cpuAddsInPlace();
BackendCode cpuCreateHeadPass(DeviceModel* model, DeviceHeadPass** out, BackendFailure* failure);
void cpuReleaseHeadPass(DeviceHeadPass* pass);
BackendCode cpuHeadGradient(DeviceHeadPass* pass, const float* x, const int32_t* ids, int64_t tokens,
                            const BackendLabels* labels, double* loss, float* dx, const BackendCancel* cancel,
                            BackendFailure* failure);

}  // namespace flrc
