#include "model/cpu_backend.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "core/bandwidth.h"
#include "core/error.h"
#include "core/thread_pool.h"
#include "cpu/kernels.h"
#include "model/cpu_calibration.h"
#include "model/cpu_passes.h"
#include "model/decode_pass.h"
#include "model/guarded.h"
#include "model/sampler.h"

namespace flrc {

static_assert(kBackendRows == cpu::kMaxColumns);

struct DeviceSequence {
  explicit DeviceSequence(const Model& of)
      : vocab(of.config.vocab), threads(of.threads), cache(of.config, of.dtype) {}
  DeviceSequence(const DeviceSequence& from, int64_t length)
      : vocab(from.vocab), threads(from.threads), cache(from.cache, length), logits(from.logits) {}

  int64_t vocab;
  int threads;
  KvCache cache;
  std::vector<float> logits;
};

struct DevicePass {
  explicit DevicePass(const Model& of) : model(&of), pass(of) {}

  const Model* model;
  DecodePass pass;
  std::vector<PassRow> rows;
  std::vector<DeviceSequence*> sequences;  // of the rows of the last run
  std::vector<float> logits;               // [made, vocab]
  std::vector<int64_t> made;               // of which rows of the last run

  // Logits [count, vocab] of rows of the last run, which stay until others are asked for.
  const float* logitsOf(const int64_t* of, int64_t count) {
    const auto vocab = static_cast<size_t>(model->config.vocab);
    const auto at = std::search(made.begin(), made.end(), of, of + count);
    if (at != made.end()) return logits.data() + static_cast<size_t>(at - made.begin()) * vocab;
    made.clear();
    logits.resize(static_cast<size_t>(count) * vocab);
    pass.logits(of, count, logits.data());
    made.assign(of, of + count);
    return logits.data();
  }
};

namespace {

int32_t score(BackendFailure*) { return 1; }

BackendCode describe(BackendDevice* out, BackendFailure*) {
  *out = {};
  std::snprintf(out->name, sizeof out->name, "%s", cpu::kernels().target);
  for (Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::int8, Dtype::int4}) {
    out->dtypes |= 1u << static_cast<int>(dtype);
  }
  return BackendCode::ok;
}

void notes(BackendNotes* out) { *out = {}; }

// From a buffer that no cache holds, on all cores.
BackendCode readBandwidth(double* out, BackendFailure* failure) {
  constexpr int64_t kBytes = 256 << 20;
  return guarded(failure, [&] { *out = flrc::readBandwidth(kBytes, 0, Job()); });
}

BackendCode createModel(const BackendModel* model, const BackendCancel*, DeviceModel** out, BackendFailure*) {
  *out = reinterpret_cast<DeviceModel*>(const_cast<void*>(model->host));
  return BackendCode::ok;
}

// The core's Model frees itself.
void releaseModel(DeviceModel*) {}

BackendCode createSequence(DeviceModel* weights, DeviceSequence** out, BackendFailure* failure) {
  return guarded(failure, [&] { *out = new DeviceSequence(modelOf(weights)); });
}

BackendCode copySequence(const DeviceSequence* from, int64_t length, DeviceSequence** out,
                         BackendFailure* failure) {
  return guarded(failure, [&] { *out = new DeviceSequence(*from, length); });
}

void releaseSequence(DeviceSequence* sequence) { delete sequence; }

uint64_t sequenceBytes(const DeviceSequence* sequence) {
  return sequence->cache.bytes() + sequence->logits.capacity() * sizeof(float);
}

BackendCode createPass(DeviceModel* weights, DevicePass** out, BackendFailure* failure) {
  return guarded(failure, [&] { *out = new DevicePass(modelOf(weights)); });
}

void releasePass(DevicePass* pass) { delete pass; }

uint64_t passBytes(const DevicePass* pass) {
  return (pass->pass.capacity() + pass->logits.capacity()) * sizeof(float);
}

BackendCode run(DevicePass* pass, const int32_t* tokens, const BackendRow* rows, int64_t count, int64_t level,
                const BackendCancel* cancel, BackendFailure* failure) {
  return guarded(failure, [&] {
    pass->rows.clear();
    pass->sequences.clear();
    pass->made.clear();
    for (int64_t t = 0; t < count; ++t) {
      pass->rows.push_back({&rows[t].sequence->cache, rows[t].position});
      pass->sequences.push_back(rows[t].sequence);
    }
    // Whoever calls this table is the core, and its cancelling that of a Job.
    pass->pass.run(tokens, pass->rows.data(), count, level, *static_cast<const Job*>(cancel->context));
  });
}

BackendCode logits(DevicePass* pass, const int64_t* rows, int64_t count, float* out, BackendFailure* failure) {
  return guarded(failure, [&] { pass->pass.logits(rows, count, out); });
}

BackendCode keepLogits(DevicePass* pass, const int64_t* rows, int64_t count, BackendFailure* failure) {
  return guarded(failure, [&] {
    const auto vocab = static_cast<size_t>(pass->model->config.vocab);
    const auto sequence = [&](int64_t i) { return pass->sequences[static_cast<size_t>(rows[i])]; };
    if (count == 1 && pass->made.empty()) {
      sequence(0)->logits.resize(vocab);
      pass->pass.logits(rows, 1, sequence(0)->logits.data());
      return;
    }
    const float* all = pass->logitsOf(rows, count);
    for (int64_t i = 0; i < count; ++i) {
      const float* row = all + static_cast<size_t>(i) * vocab;
      sequence(i)->logits.assign(row, row + vocab);
    }
  });
}

BackendCode getLogits(DeviceSequence* sequence, float* out, BackendFailure*) {
  std::copy(sequence->logits.begin(), sequence->logits.end(), out);
  return BackendCode::ok;
}

BackendCode setLogits(DeviceSequence* sequence, const float* logits, BackendFailure* failure) {
  return guarded(failure, [&] { sequence->logits.assign(logits, logits + sequence->vocab); });
}

BackendCode likeliest(DevicePass* pass, const int64_t* rows, int64_t count, BackendSampled* out,
                      BackendFailure* failure) {
  return guarded(failure, [&] {
    const int64_t vocab = pass->model->config.vocab;
    const float* all = pass->logitsOf(rows, count);
    ThreadPool::shared().parallelFor(count, pass->model->threads,
                                     [&](int64_t i) { out[i] = sampleFinite(all + i * vocab, vocab, {}); });
  });
}

BackendCode sample(const BackendDraw* draws, int64_t count, BackendSampled* out, BackendFailure* failure) {
  return guarded(failure, [&] {
    ThreadPool::shared().parallelFor(count, draws[0].sequence->threads, [&](int64_t i) {
      const DeviceSequence& sequence = *draws[i].sequence;
      out[i] = sampleFinite(sequence.logits.data(), sequence.vocab, draws[i].sampling);
    });
  });
}

}  // namespace

const Backend& cpuBackend() {
  static const Backend table = {sizeof(Backend),
                                kBackendVersion,
                                "cpu",
                                score,
                                describe,
                                readBandwidth,
                                createModel,
                                releaseModel,
                                createSequence,
                                copySequence,
                                releaseSequence,
                                sequenceBytes,
                                createPass,
                                releasePass,
                                passBytes,
                                run,
                                logits,
                                keepLogits,
                                getLogits,
                                setLogits,
                                likeliest,
                                sample,
                                cpuCreateLayerPass,
                                cpuReleaseLayerPass,
                                cpuLayerForward,
                                cpuLayerBackward,
                                cpuAddsInPlace,
                                cpuCreateHeadPass,
                                cpuReleaseHeadPass,
                                cpuHeadGradient,
                                cpuCreateMoments,
                                cpuReleaseMoments,
                                cpuAddMoments,
                                cpuFinishMoments,
                                cpuFactorize,
                                cpuCreateCurves,
                                cpuReleaseCurves,
                                cpuAddCurves,
                                cpuPivotedQr,
                                notes};
  return table;
}

}  // namespace flrc
