// A plugin whose model counts: after token t it holds t + 1 for the likeliest. Its table is spoiled in the way
// that FAKE_PLUGIN names, and with FAKE_PLUGIN=driver or cublas it can run only where the CUDA plugin could, or
// could use cuBLAS.

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

#include "backend.h"
#include "runtime/driver.h"
#include "runtime/libraries.h"

namespace flrc {

struct DeviceModel {
  int64_t vocab = 0;
};

struct DeviceSequence {
  int64_t vocab = 0;
  std::vector<int32_t> tokens;
  int32_t next = 0;
};

struct DevicePass {
  std::vector<BackendRow> rows;
  std::vector<int32_t> tokens;
};

namespace {

const char* spoiled() {
  const char* how = std::getenv("FAKE_PLUGIN");
  return how ? how : "";
}

bool is(const char* how) { return !std::strcmp(spoiled(), how); }

BackendCode failed(BackendCode result, BackendFailure* failure, const char* message) {
  std::snprintf(failure->message, sizeof failure->message, "%s", message);
  return result;
}

int32_t score(BackendFailure* failure) {
  if (is("unfit")) {
    failed(BackendCode::device, failure, "this machine is not to its liking");
    return 0;
  }
  if (is("driver")) {
    const gpu::DriverState state = gpu::probeDriver();
    if (state.missing.empty()) return FAKE_SCORE;
    failed(BackendCode::device, failure, state.missing.c_str());
    return 0;
  }
  if (is("cublas")) {
    const gpu::Library library(gpu::kCublasLt);
    if (library.missing().empty()) return FAKE_SCORE;
    failed(BackendCode::device, failure, library.missing().c_str());
    return 0;
  }
  return FAKE_SCORE;
}

BackendCode describe(BackendDevice* out, BackendFailure*) {
  *out = {};
  std::snprintf(out->name, sizeof out->name, "counter of score %d", FAKE_SCORE);
  out->dtypes = is("narrow") ? 1u << static_cast<int>(Dtype::int8) : ~0u;
  return BackendCode::ok;
}

BackendCode readBandwidth(double* out, BackendFailure*) {
  *out = 5e10;
  return BackendCode::ok;
}

BackendCode createModel(const BackendModel* model, const BackendCancel*, DeviceModel** out,
                        BackendFailure* failure) {
  if (is("full")) return failed(BackendCode::outOfMemory, failure, "the device has 1 GB free of 2 GB wanted");
  *out = new DeviceModel{model->vocab};
  return BackendCode::ok;
}

void releaseModel(DeviceModel* model) { delete model; }

BackendCode createSequence(DeviceModel* model, DeviceSequence** out, BackendFailure*) {
  *out = new DeviceSequence{model->vocab, {}, 0};
  return BackendCode::ok;
}

BackendCode copySequence(const DeviceSequence* from, int64_t length, DeviceSequence** out, BackendFailure*) {
  *out = new DeviceSequence(*from);
  (*out)->tokens.resize(static_cast<size_t>(length));
  return BackendCode::ok;
}

void releaseSequence(DeviceSequence* sequence) { delete sequence; }

uint64_t sequenceBytes(const DeviceSequence* sequence) { return sequence->tokens.size() * sizeof(int32_t); }

BackendCode createPass(DeviceModel*, DevicePass** out, BackendFailure*) {
  *out = new DevicePass;
  return BackendCode::ok;
}

void releasePass(DevicePass* pass) { delete pass; }

uint64_t passBytes(const DevicePass*) { return 0; }

// Takes until it is cancelled, and a while more. What it uses is gone once the handler runs that it leaves for
// the process's exit.
BackendCode runUntilCancelled(const BackendCancel* cancel, BackendFailure* failure) {
  static std::atomic<bool> underWay{true};
  std::atexit([] {
    if (underWay) std::_Exit(99);
  });
  std::fputs("under way\n", stderr);
  while (!cancel->cancelled(cancel->context)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  underWay = false;
  return failed(BackendCode::aborted, failure, "aborted");
}

BackendCode run(DevicePass* pass, const int32_t* tokens, const BackendRow* rows, int64_t count, int64_t,
                const BackendCancel* cancel, BackendFailure* failure) {
  if (cancel->cancelled(cancel->context)) return failed(BackendCode::aborted, failure, "aborted");
  if (is("endless")) return runUntilCancelled(cancel, failure);
  if (is("broken")) return failed(BackendCode::device, failure, "the device fell off the bus");
  pass->rows.assign(rows, rows + count);
  pass->tokens.assign(tokens, tokens + count);
  for (int64_t t = 0; t < count; ++t) {
    std::vector<int32_t>& sequence = rows[t].sequence->tokens;
    sequence.resize(static_cast<size_t>(rows[t].position + 1));
    sequence.back() = tokens[t];
  }
  return BackendCode::ok;
}

int32_t after(int32_t token, int64_t vocab) { return static_cast<int32_t>((token + 1) % vocab); }

void fill(int32_t next, int64_t vocab, float* out) {
  std::memset(out, 0, static_cast<size_t>(vocab) * sizeof(float));
  out[next] = 10;
}

BackendCode logits(DevicePass* pass, const int64_t* rows, int64_t count, float* out, BackendFailure*) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t vocab = pass->rows[static_cast<size_t>(rows[i])].sequence->vocab;
    fill(after(pass->tokens[static_cast<size_t>(rows[i])], vocab), vocab, out + i * vocab);
  }
  return BackendCode::ok;
}

BackendCode keepLogits(DevicePass* pass, const int64_t* rows, int64_t count, BackendFailure*) {
  for (int64_t i = 0; i < count; ++i) {
    DeviceSequence* sequence = pass->rows[static_cast<size_t>(rows[i])].sequence;
    sequence->next = after(pass->tokens[static_cast<size_t>(rows[i])], sequence->vocab);
  }
  return BackendCode::ok;
}

BackendCode getLogits(DeviceSequence* sequence, float* out, BackendFailure*) {
  fill(sequence->next, sequence->vocab, out);
  return BackendCode::ok;
}

BackendCode setLogits(DeviceSequence* sequence, const float* logits, BackendFailure*) {
  int32_t best = 0;
  for (int32_t token = 1; token < sequence->vocab; ++token) best = logits[token] > logits[best] ? token : best;
  sequence->next = best;
  return BackendCode::ok;
}

BackendCode likeliest(DevicePass* pass, const int64_t* rows, int64_t count, BackendSampled* out,
                      BackendFailure*) {
  for (int64_t i = 0; i < count; ++i) {
    const auto row = static_cast<size_t>(rows[i]);
    out[i] = {after(pass->tokens[row], pass->rows[row].sequence->vocab), -0.5, 0.25};
  }
  return BackendCode::ok;
}

BackendCode sample(const BackendDraw* draws, int64_t count, BackendSampled* out, BackendFailure*) {
  for (int64_t i = 0; i < count; ++i) out[i] = {is("nan") ? -1 : draws[i].sequence->next, -0.5, 0.25};
  return BackendCode::ok;
}

// Nothing that a calibration asks for.
template <typename... Arguments>
BackendCode unable(Arguments... arguments) {
  BackendFailure* failure = (arguments, ...);
  return failed(BackendCode::internal, failure, "it only counts");
}

bool addsInPlace() { return false; }
void notes(BackendNotes* out) {
  std::snprintf(out->text, sizeof out->text, "%s", is("noted") ? "it has counted, and found it slow" : "");
}
void releaseNothing(DeviceLayerPass*) {}
void releaseNothing(DeviceHeadPass*) {}
void releaseNothing(DeviceMoments*) {}
void releaseNothing(DeviceCurves*) {}

}  // namespace
}  // namespace flrc

extern "C" __attribute__((visibility("default"))) const flrc::Backend* flrc_backend() {
  using namespace flrc;
  static Backend table = {
      sizeof(Backend), kBackendVersion, "cuda",         score,        describe,        readBandwidth,
      createModel,     releaseModel,    createSequence, copySequence, releaseSequence, sequenceBytes,
      createPass,      releasePass,     passBytes,      run,          logits,          keepLogits,
      getLogits,       setLogits,       likeliest,      sample,       unable,          releaseNothing,
      unable,          unable,          addsInPlace,    unable,       releaseNothing,  unable,
      unable,          releaseNothing,  unable,         unable,       unable,          unable,
      releaseNothing,  unable,          unable,         notes};
  if (is("absent")) return nullptr;
  if (is("newer")) table.version = kBackendVersion + 1;
  if (is("short")) table.size = sizeof(Backend) - 1;
  if (is("hole")) table.copySequence = nullptr;
  return &table;
}
