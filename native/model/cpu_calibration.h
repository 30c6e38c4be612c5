#pragma once

#include "backend.h"

// The functions of the CPU's table that calibrations call of what passes (cpu_passes.h) leave.

namespace flrc {

BackendCode cpuCreateMoments(DeviceModel* model, const int64_t* widths, double* const* sums, int64_t count,
                             DeviceMoments** out, BackendFailure* failure);
void cpuReleaseMoments(DeviceMoments* moments);
BackendCode cpuAddMoments(DeviceMoments* moments, const float* const* x, int64_t tokens,
                          const BackendCancel* cancel, BackendFailure* failure);
BackendCode cpuFinishMoments(DeviceMoments* moments, const BackendCancel* cancel, BackendFailure* failure);
BackendCode cpuFactorize(DeviceModel* model, const BackendFactoring* factoring, const BackendCancel* cancel,
                         BackendFailure* failure);
BackendCode cpuCreateCurves(DeviceModel* model, int64_t n, const BackendCurve* of, int64_t count,
                            DeviceCurves** out, BackendFailure* failure);
void cpuReleaseCurves(DeviceCurves* curves);
BackendCode cpuAddCurves(DeviceCurves* curves, const float* x, const float* const* g, int64_t tokens,
                         double* const* out, const BackendCancel* cancel, BackendFailure* failure);
BackendCode cpuPivotedQr(DeviceModel* model, const float* u, int64_t s, int64_t m, double* r, int32_t* column,
                         int64_t* rank, const BackendCancel* cancel, BackendFailure* failure);

}  // namespace flrc
