// The plugin's table (native/backend.h).

#include <cstdio>
#include <memory>

#include "backend.h"
#include "runtime/bandwidth.h"
#include "runtime/curves.h"
#include "runtime/driver.h"
#include "runtime/factoring.h"
#include "runtime/failure.h"
#include "runtime/head_pass.h"
#include "runtime/layer_pass.h"
#include "runtime/moments.h"
#include "runtime/notes.h"
#include "runtime/pass.h"
#include "runtime/pivoting.h"

namespace flrc::gpu {
namespace {

constexpr int32_t kGpuScore = 100;

int32_t score(BackendFailure* failure) {
#ifdef __CUDACC__
  const DriverState state = probeDriver();
  if (!state.missing.empty()) {
    std::snprintf(failure->message, sizeof failure->message, "%s", state.missing.c_str());
    return 0;
  }
#else
  (void)failure;
#endif
  return kGpuScore;
}

BackendCode describe(BackendDevice* out, BackendFailure* failure) {
  return guarded(failure, [&] {
    *out = {};
#ifdef __CUDACC__
    const DriverState state = probeDriver();
    std::snprintf(out->name, sizeof out->name, "%s", state.device.c_str());
    out->totalBytes = state.totalBytes;
#else
    std::snprintf(out->name, sizeof out->name, "emulator");
#endif
    for (Dtype dtype : {Dtype::bf16, Dtype::int8, Dtype::int4}) out->dtypes |= 1u << static_cast<int>(dtype);
  });
}

template <typename Body>
BackendCode onDevice(BackendFailure* failure, const Body& body) {
  return guarded(failure, [&] {
    useFirstDevice();
    body();
  });
}

BackendCode readBandwidth(double* out, BackendFailure* failure) {
  return onDevice(failure, [&] { *out = measureBandwidth(); });
}

BackendCode createModel(const BackendModel* model, const BackendCancel* cancel, DeviceModel** out,
                        BackendFailure* failure) {
  return onDevice(failure, [&] { *out = new DeviceModel(*model, *cancel); });
}

// Frees what is on the device under the lock of the queue, once that is done with it.
template <typename Object>
void release(Object* object) {
  Device& device = Device::shared();
  std::lock_guard<std::mutex> lock(device.mutex);
  device.queue.finish();
  delete object;
}

BackendCode createSequence(DeviceModel* model, DeviceSequence** out, BackendFailure* failure) {
  return onDevice(failure, [&] {
    std::lock_guard<std::mutex> lock(model->mutex);
    *out = new DeviceSequence(*model);
  });
}

BackendCode copySequence(const DeviceSequence* from, int64_t length, DeviceSequence** out,
                         BackendFailure* failure) {
  return onDevice(failure, [&] {
    std::lock_guard<std::mutex> lock(from->model.mutex);
    *out = new DeviceSequence(*from, length);
  });
}

uint64_t sequenceBytes(const DeviceSequence* sequence) {
  return sequence->keys.bytes() + sequence->values.bytes() + sequence->logits.bytes();
}

BackendCode createPass(DeviceModel* model, DevicePass** out, BackendFailure* failure) {
  return onDevice(failure, [&] {
    std::lock_guard<std::mutex> lock(model->mutex);
    *out = new DevicePass(*model);
  });
}

uint64_t passBytes(const DevicePass* pass) { return pass->bytes(); }

BackendCode run(DevicePass* pass, const int32_t* tokens, const BackendRow* rows, int64_t count, int64_t level,
                const BackendCancel* cancel, BackendFailure* failure) {
  return onDevice(failure, [&] {
    std::lock_guard<std::mutex> lock(pass->model.mutex);
    pass->run(tokens, rows, count, level, *cancel);
  });
}

BackendCode logits(DevicePass* pass, const int64_t* rows, int64_t count, float* out, BackendFailure* failure) {
  return onDevice(failure, [&] {
    std::lock_guard<std::mutex> lock(pass->model.mutex);
    pass->logits(rows, count, out);
  });
}

BackendCode keepLogits(DevicePass* pass, const int64_t* rows, int64_t count, BackendFailure* failure) {
  return onDevice(failure, [&] {
    std::lock_guard<std::mutex> lock(pass->model.mutex);
    pass->keepLogits(rows, count);
  });
}

BackendCode getLogits(DeviceSequence* sequence, float* out, BackendFailure* failure) {
  return onDevice(failure, [&] {
    std::lock_guard<std::mutex> lock(sequence->model.mutex);
    sequence->model.queue.download(sequence->logits, 0, sequence->logits.count(), out);
  });
}

BackendCode setLogits(DeviceSequence* sequence, const float* logits, BackendFailure* failure) {
  return onDevice(failure, [&] {
    std::lock_guard<std::mutex> lock(sequence->model.mutex);
    sequence->setLogits(logits);
  });
}

BackendCode likeliest(DevicePass* pass, const int64_t* rows, int64_t count, BackendSampled* out,
                      BackendFailure* failure) {
  return onDevice(failure, [&] {
    std::lock_guard<std::mutex> lock(pass->model.mutex);
    pass->likeliest(rows, count, out);
  });
}

BackendCode sample(const BackendDraw* draws, int64_t count, BackendSampled* out, BackendFailure* failure) {
  return onDevice(failure, [&] {
    std::lock_guard<std::mutex> lock(draws[0].sequence->model.mutex);
    sampleEach(draws, count, out);
  });
}

BackendCode createLayerPass(DeviceModel* model, int64_t layer, int64_t longest, const void*,
                            DeviceLayerPass** out, BackendFailure* failure) {
  return onDevice(failure, [&] { *out = new DeviceLayerPass(*model, layer, longest); });
}

BackendCode layerForward(DeviceLayerPass* pass, const float* x, int64_t tokens, float* y,
                         const BackendCancel* cancel, BackendFailure* failure) {
  return onDevice(failure, [&] {
    pass->pass(*cancel, nullptr, [&](LayerSteps& steps) { steps.forward(x, tokens, y, *cancel); });
  });
}

BackendCode layerBackward(DeviceLayerPass* pass, const float* x, int64_t tokens, const float* dy, float* dx,
                          double (*scores)[3], const BackendTapes* tapes, const BackendSums* sums,
                          const BackendCancel* cancel, BackendFailure* failure) {
  return onDevice(failure, [&] {
    pass->pass(*cancel, sums ? sums->turn : nullptr,
               [&](LayerSteps& steps) { steps.backward(x, tokens, dy, dx, scores, tapes, sums, *cancel); });
  });
}

bool addsInPlace() { return true; }

BackendCode createHeadPass(DeviceModel* model, DeviceHeadPass** out, BackendFailure* failure) {
  return onDevice(failure, [&] { *out = new DeviceHeadPass(*model); });
}

BackendCode headGradient(DeviceHeadPass* pass, const float* x, const int32_t* ids, int64_t tokens,
                         const BackendLabels* labels, double* loss, float* dx, const BackendCancel* cancel,
                         BackendFailure* failure) {
  return onDevice(failure, [&] { *loss = pass->gradient(x, ids, tokens, *labels, dx, *cancel); });
}

BackendCode createMoments(DeviceModel* model, const int64_t* widths, double* const* sums, int64_t count,
                          DeviceMoments** out, BackendFailure* failure) {
  return onDevice(failure, [&] {
    std::lock_guard<std::mutex> lock(model->mutex);
    *out = new DeviceMoments(*model, widths, sums, count);
  });
}

BackendCode addMoments(DeviceMoments* moments, const float* const* x, int64_t tokens,
                       const BackendCancel* cancel, BackendFailure* failure) {
  return onDevice(failure, [&] { moments->add(x, tokens, *cancel); });
}

BackendCode finishMoments(DeviceMoments* moments, const BackendCancel* cancel, BackendFailure* failure) {
  return onDevice(failure, [&] { moments->finish(*cancel); });
}

BackendCode factorize(DeviceModel*, const BackendFactoring* factoring, const BackendCancel* cancel,
                      BackendFailure* failure) {
  return onDevice(failure, [&] { factorizeProjection(*factoring, *cancel); });
}

BackendCode createCurves(DeviceModel*, int64_t n, const BackendCurve* of, int64_t count, DeviceCurves** out,
                         BackendFailure* failure) {
  return onDevice(failure, [&] { *out = new DeviceCurves(n, of, count); });
}

BackendCode addCurves(DeviceCurves* curves, const float* x, const float* const* g, int64_t tokens,
                      double* const* out, const BackendCancel* cancel, BackendFailure* failure) {
  return onDevice(failure, [&] { curves->add(x, g, tokens, out, *cancel); });
}

BackendCode pivotedQr(DeviceModel*, const float* u, int64_t s, int64_t m, double* r, int32_t* column,
                      int64_t* rank, const BackendCancel* cancel, BackendFailure* failure) {
  return onDevice(failure, [&] { *rank = pivotedQrOf(u, s, m, r, column, *cancel); });
}

void tell(BackendNotes* out) { std::snprintf(out->text, sizeof out->text, "%s", notes().c_str()); }

}  // namespace
}  // namespace flrc::gpu

extern "C" __attribute__((visibility("default"))) const flrc::Backend* flrc_backend() {
  using namespace flrc;
  using namespace flrc::gpu;
  static const Backend table = {sizeof(Backend), kBackendVersion,
                                "cuda",          score,
                                describe,        gpu::readBandwidth,
                                createModel,     release,
                                createSequence,  copySequence,
                                release,         sequenceBytes,
                                createPass,      release,
                                passBytes,       gpu::run,
                                gpu::logits,     keepLogits,
                                getLogits,       setLogits,
                                gpu::likeliest,  gpu::sample,
                                createLayerPass, release,
                                layerForward,    layerBackward,
                                addsInPlace,     createHeadPass,
                                release,         headGradient,
                                createMoments,   release,
                                addMoments,      finishMoments,
                                factorize,       createCurves,
                                release,         addCurves,
                                pivotedQr,       tell};
  return &table;
}
