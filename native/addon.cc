// The N-API face of the native core: converts between lib/native-types.ts and plain structs, nothing more.

#include <napi.h>
#include <sys/resource.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "calibrate/calibrate.h"
#include "calibrate/factorize.h"
#include "core/bandwidth.h"
#include "core/thread_pool.h"
#include "cpu/kernels.h"
#include "linalg/gemm.h"
#include "model/loader.h"
#include "model/self_text.h"
#include "model/session.h"
#include "model/window_losses.h"
#include "model/writer.h"
#include "recover/recover.h"
#include "worker.h"

namespace flrc {
namespace {

// A native object held by a JavaScript one: freed on release, or when JavaScript forgets it.
template <typename T>
struct Handle {
  std::shared_ptr<T> value;
  // Bytes told to V8. Shared with running work that makes the object grow; touched on the JavaScript thread
  // only.
  std::shared_ptr<int64_t> external;

  static constexpr int64_t kReleased = -1;
  static const napi_type_tag tag;

  static Napi::Value wrap(Napi::Env env, std::shared_ptr<T> value, int64_t external) {
    Napi::Object object = Napi::Object::New(env);
    auto* handle = new Handle{std::move(value), std::make_shared<int64_t>(external)};
    Napi::MemoryManagement::AdjustExternalMemory(env, external);
    napi_wrap(
        env, object, handle,
        [](napi_env of, void* data, void*) {
          auto* self = static_cast<Handle*>(data);
          self->release(of);
          delete self;
        },
        nullptr, nullptr);
    napi_type_tag_object(env, object, &tag);
    return object;
  }

  static Handle& from(const Napi::Value& value) {
    bool matches = false;
    void* data = nullptr;
    if (!value.IsObject() || napi_check_object_type_tag(value.Env(), value, &tag, &matches) != napi_ok ||
        !matches || napi_unwrap(value.Env(), value, &data) != napi_ok) {
      throw Error(code::internal, "a native handle of another kind was expected");
    }
    return *static_cast<Handle*>(data);
  }

  static std::shared_ptr<T> get(const Napi::Value& value) {
    Handle& handle = from(value);
    if (!handle.value) throw Error("E_DISPOSED", "the native object was released already");
    return handle.value;
  }

  void release(Napi::Env env) {
    if (!value) return;
    value.reset();
    Napi::MemoryManagement::AdjustExternalMemory(env, -*external);
    *external = kReleased;
  }
};

// Tells V8 how much a session holds by now, unless it was released meanwhile.
void updateExternal(Napi::Env env, const std::shared_ptr<int64_t>& external, const Session& session) {
  if (*external == Handle<Session>::kReleased) return;
  const auto bytes = static_cast<int64_t>(session.bytes());
  Napi::MemoryManagement::AdjustExternalMemory(env, bytes - *external);
  *external = bytes;
}

template <>
const napi_type_tag Handle<const Model>::tag = {0x6f1c2d9a54b34e01, 0x9d3a7f6612c84e11};
template <>
const napi_type_tag Handle<Session>::tag = {0x6f1c2d9a54b34e02, 0x9d3a7f6612c84e12};
template <>
const napi_type_tag Handle<const Calibration>::tag = {0x6f1c2d9a54b34e03, 0x9d3a7f6612c84e13};
template <>
const napi_type_tag Handle<Recovery>::tag = {0x6f1c2d9a54b34e04, 0x9d3a7f6612c84e14};

// ---- values from JavaScript -------------------------------------------------------------------------------

double number(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  if (!value.IsNumber()) throw Error(code::internal, std::string(key) + " is not a number");
  return value.As<Napi::Number>().DoubleValue();
}

int64_t toInteger(double value, const char* what) {
  if (!(std::abs(value) <= 9007199254740991.0) || value != std::floor(value)) {
    throw Error(code::internal, std::string(what) + " is not an integer");
  }
  return static_cast<int64_t>(value);
}

int64_t integer(const Napi::Object& object, const char* key) { return toInteger(number(object, key), key); }

int64_t integer(const Napi::Value& value, const char* what) {
  if (!value.IsNumber()) throw Error(code::internal, std::string(what) + " is not a number");
  return toInteger(value.As<Napi::Number>().DoubleValue(), what);
}

bool boolean(const Napi::Object& object, const char* key) { return object.Get(key).ToBoolean(); }

std::string text(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  if (!value.IsString()) throw Error(code::internal, std::string(key) + " is not a string");
  return value.As<Napi::String>().Utf8Value();
}

Napi::Object object(const Napi::Value& value, const char* what) {
  if (!value.IsObject()) throw Error(code::internal, std::string(what) + " is not an object");
  return value.As<Napi::Object>();
}

std::vector<int32_t> integers(const Napi::Value& value, const char* what) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
    throw Error(code::internal, std::string(what) + " is not an Int32Array");
  }
  const auto array = value.As<Napi::Int32Array>();
  return std::vector<int32_t>(array.Data(), array.Data() + array.ElementLength());
}

std::vector<double> doubles(const Napi::Value& value, const char* what) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array) {
    throw Error(code::internal, std::string(what) + " is not a Float64Array");
  }
  const auto array = value.As<Napi::Float64Array>();
  return std::vector<double>(array.Data(), array.Data() + array.ElementLength());
}

template <typename Convert>
auto list(const Napi::Value& value, const char* what, const Convert& convert) {
  if (!value.IsArray()) throw Error(code::internal, std::string(what) + " is not an array");
  const auto array = value.As<Napi::Array>();
  std::vector<decltype(convert(Napi::Value()))> values;
  values.reserve(array.Length());
  for (uint32_t i = 0; i < array.Length(); ++i) values.push_back(convert(array.Get(i)));
  return values;
}

Dtype dtype(const std::string& name) {
  if (name == "f32") return Dtype::f32;
  if (name == "bf16") return Dtype::bf16;
  if (name == "int8") return Dtype::int8;
  if (name == "int4") return Dtype::int4;
  throw Error(code::internal, "unknown dtype " + name);
}

ModelConfig modelConfig(const Napi::Object& from) {
  ModelConfig config;
  config.architecture = text(from, "architecture");
  config.layers = integer(from, "layers");
  config.hidden = integer(from, "hiddenSize");
  config.heads = integer(from, "heads");
  config.kvHeads = integer(from, "kvHeads");
  config.headDim = integer(from, "headDim");
  config.intermediate = integer(from, "intermediateSize");
  config.vocab = integer(from, "vocabSize");
  config.context = integer(from, "contextLength");
  config.eps = static_cast<float>(number(from, "rmsNormEps"));
  config.tieEmbeddings = boolean(from, "tieEmbeddings");
  config.qkvBias = boolean(from, "qkvBias");
  config.outputBias = boolean(from, "outputBias");
  config.mlpBias = boolean(from, "mlpBias");
  config.qkNorm = boolean(from, "qkNorm");
  config.slidingWindow = integers(from.Get("slidingWindow"), "slidingWindow");
  config.ropeFrequencies = doubles(from.Get("ropeFrequencies"), "ropeFrequencies");
  config.ropeScale = static_cast<float>(number(from, "ropeScale"));
  return config;
}

TensorSource tensorSource(const Napi::Value& value) {
  const Napi::Object from = object(value, "a tensor");
  TensorSource source;
  source.name = text(from, "name");
  source.file = text(from, "file");
  source.offset = integer(from, "offset");
  source.byteLength = integer(from, "byteLength");
  source.type = sourceType(text(from, "type"));
  source.shape = list(from.Get("shape"), "shape", [](const Napi::Value& v) { return integer(v, "an extent"); });
  if (from.Get("interleavedHeads").IsNumber()) source.interleavedHeads = integer(from, "interleavedHeads");
  return source;
}

std::vector<std::vector<int32_t>> levels(const Napi::Object& from) {
  return list(from.Get("levels"), "levels", [](const Napi::Value& v) { return integers(v, "a level"); });
}

Sampling sampling(const Napi::Value& value) {
  const Napi::Object from = object(value, "sampling");
  return {number(from, "temperature"),
          integer(from, "topK"),
          number(from, "topP"),
          number(from, "minP"),
          static_cast<uint64_t>(integer(from, "seed")),
          static_cast<uint64_t>(integer(from, "draw"))};
}

Whitening whitening(const Napi::Object& from) {
  const std::string name = text(from, "whitening");
  return name == "none"     ? Whitening::none
         : name == "scaled" ? Whitening::scaled
         : name == "input"  ? Whitening::input
                            : Whitening::twoSided;
}

CalibrationOptions calibrationOptions(const Napi::Object& from) {
  CalibrationOptions options;
  options.tokens = integers(from.Get("tokens"), "tokens");
  options.lengths = integers(from.Get("lengths"), "lengths");
  options.labels = text(from, "labels") == "data" ? Labels::data : Labels::model;
  options.seed = static_cast<uint64_t>(integer(from, "seed"));
  options.whitening = whitening(from);
  options.curves = boolean(from, "curves");
  options.jitter = number(from, "jitter");
  const Napi::Object shrinkage = object(from.Get("shrinkage"), "shrinkage");
  options.shrinkage = {number(shrinkage, "inputs"), number(shrinkage, "gradients")};
  options.memory = integer(from, "memory");
  options.scratch = text(from, "scratch");
  options.randomisedRank = integer(from, "randomisedRank");
  options.keepInputMoments = boolean(from, "keepInputMoments");
  return options;
}

SelfTextOptions selfTextOptions(const Napi::Object& from) {
  SelfTextOptions options;
  options.forms = list(from.Get("forms"), "forms", [](const Napi::Value& value) {
    const Napi::Object form = object(value, "a form");
    const auto turn = [](const Napi::Value& v) { return integers(v, "a turn"); };
    return DocumentForm{integers(form.Get("starts"), "starts"), list(form.Get("turns"), "turns", turn),
                        integers(form.Get("ending"), "ending"), integer(form, "longest")};
  });
  options.ends = integers(from.Get("ends"), "ends");
  options.windows = integer(from, "windows");
  options.length = integer(from, "length");
  options.seed = static_cast<uint64_t>(integer(from, "seed"));
  options.temperature = number(from, "temperature");
  options.topP = number(from, "topP");
  options.memory = integer(from, "memory");
  return options;
}

// ---- values to JavaScript ---------------------------------------------------------------------------------

Napi::Value toArray(Napi::Env env, const std::vector<double>& values) {
  auto array = Napi::Float64Array::New(env, values.size());
  std::copy(values.begin(), values.end(), array.Data());
  return array;
}

Napi::Value toArray(Napi::Env env, const std::vector<int32_t>& values) {
  auto array = Napi::Int32Array::New(env, values.size());
  std::copy(values.begin(), values.end(), array.Data());
  return array;
}

template <typename T, typename Convert>
Napi::Array toList(Napi::Env env, const std::vector<T>& values, const Convert& convert) {
  auto array = Napi::Array::New(env, values.size());
  for (size_t i = 0; i < values.size(); ++i) array.Set(static_cast<uint32_t>(i), convert(values[i]));
  return array;
}

Napi::Value toNumber(Napi::Env env, double value) { return Napi::Number::New(env, value); }

Napi::Value step(Napi::Env env, const Sampled& sampled) {
  Napi::Object to = Napi::Object::New(env);
  to.Set("tokenId", toNumber(env, sampled.token));
  to.Set("logprob", toNumber(env, sampled.logprob));
  to.Set("entropy", toNumber(env, sampled.entropy));
  return to;
}

Napi::Value wrapModel(Napi::Env env, const std::shared_ptr<const Model>& model) {
  return Handle<const Model>::wrap(env, model, static_cast<int64_t>(model->bytes()));
}

double peakBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024.0;
}

Napi::Value calibrationResult(Napi::Env env, const std::shared_ptr<const Calibration>& calibration) {
  auto scores = [&](double FisherScore::*part) {
    std::vector<double> values;
    for (const FisherScore& score : calibration->scores) values.push_back(score.*part);
    return toArray(env, values);
  };
  Napi::Object byName = Napi::Object::New(env);
  byName.Set("fisher", scores(&FisherScore::weighted));
  byName.Set("gradient", scores(&FisherScore::gradient));
  byName.Set("taylor", scores(&FisherScore::taylor));
  const CalibrationSeconds& spent = calibration->seconds;
  Napi::Object seconds = Napi::Object::New(env);
  seconds.Set("forward", toNumber(env, spent.forward));
  seconds.Set("backward", toNumber(env, spent.backward));
  seconds.Set("moments", toNumber(env, spent.moments));
  seconds.Set("factorize", toNumber(env, spent.factorize));
  seconds.Set("curves", toNumber(env, spent.curves));

  const auto array = [&](const std::vector<double>& values) { return toArray(env, values); };
  Napi::Object to = Napi::Object::New(env);
  to.Set("calibration", Handle<const Calibration>::wrap(env, calibration, 0));
  to.Set("scores", byName);
  to.Set("singular", toList(env, calibration->singular, array));
  to.Set("curves", toList(env, calibration->curves, array));
  to.Set("lossTokens", toNumber(env, static_cast<double>(calibration->lossTokens)));
  to.Set("meanLoss", toNumber(env, calibration->meanLoss));
  to.Set("seconds", seconds);
  to.Set("peakBytes", toNumber(env, peakBytes()));
  const LayerLimits& limits = calibration->limits;
  Napi::Object atOnce = Napi::Object::New(env);
  atOnce.Set("sequences", toNumber(env, limits.sequences));
  atOnce.Set("projections", toNumber(env, limits.projections));
  atOnce.Set("oneInput", Napi::Boolean::New(env, limits.oneInput));
  to.Set("atOnce", atOnce);
  return to;
}

// Work that resolves to nothing.
template <typename Work>
Napi::Value startEffect(Napi::Env env, const Napi::Value& progress, const Work& work) {
  return startWork<bool>(
      env, progress,
      [work](const Job& job) {
        work(job);
        return true;
      },
      [](Napi::Env of, bool&) { return of.Undefined(); });
}

// ---- the surface ------------------------------------------------------------------------------------------

Napi::Value info(const Napi::CallbackInfo& call) {
  Napi::Object to = Napi::Object::New(call.Env());
  to.Set("target", cpu::kernels().target);
  to.Set("cores", ThreadPool::availableCores());
  to.Set("blas", blasName());
  return to;
}

Napi::Value startReadBandwidth(const Napi::CallbackInfo& call) {
  const int64_t bytes = integer(call[0], "bytes");
  const auto threads = static_cast<int>(integer(call[1], "threads"));
  return startWork<double>(
      call.Env(), call.Env().Undefined(), [=](const Job& job) { return readBandwidth(bytes, threads, job); },
      [](Napi::Env env, double& bandwidth) { return toNumber(env, bandwidth); });
}

Napi::Value load(const Napi::CallbackInfo& call) {
  const Napi::Object from = object(call[0], "spec");
  ModelSpec spec;
  spec.config = modelConfig(object(from.Get("config"), "config"));
  spec.tensors = list(from.Get("tensors"), "tensors", tensorSource);
  spec.dtype = dtype(text(from, "dtype"));
  spec.threads = static_cast<int>(integer(from, "threads"));
  spec.levels = levels(from);
  return startWork<std::shared_ptr<const Model>>(
      call.Env(), call[1], [spec](const Job& job) { return loadModel(spec, job); }, wrapModel);
}

Napi::Value modelInfo(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  const auto model = Handle<const Model>::get(call[0]);
  Napi::Array projections = Napi::Array::New(env), shapes = Napi::Array::New(env),
              levels = Napi::Array::New(env);
  for (int64_t i = 0; i < model->projectionCount(); ++i) {
    const auto at = static_cast<uint32_t>(i);
    projections.Set(at, projectionName(i / kProjections, static_cast<int>(i % kProjections)));
    Napi::Array shape = Napi::Array::New(env, 2);
    shape.Set(0u, toNumber(env, static_cast<double>(model->projection(i).outputs)));
    shape.Set(1u, toNumber(env, static_cast<double>(model->projection(i).inputs)));
    shapes.Set(at, shape);
  }
  for (size_t l = 0; l < model->levels.size(); ++l) {
    Napi::Object level = Napi::Object::New(env);
    level.Set("parameters",
              toNumber(env, static_cast<double>(model->levelParameters(static_cast<int64_t>(l)))));
    level.Set("bytesPerToken", toNumber(env, static_cast<double>(model->levelBytes(static_cast<int64_t>(l)))));
    level.Set("ranks", toArray(env, model->levels[l]));
    levels.Set(static_cast<uint32_t>(l), level);
  }
  Napi::Object to = Napi::Object::New(env);
  to.Set("projections", projections);
  to.Set("shapes", shapes);
  to.Set("bytes", toNumber(env, static_cast<double>(model->bytes())));
  to.Set("levels", levels);
  return to;
}

template <typename T>
Napi::Value release(const Napi::CallbackInfo& call) {
  Handle<T>::from(call[0]).release(call.Env());
  return call.Env().Undefined();
}

Napi::Value createSession(const Napi::CallbackInfo& call) {
  return Handle<Session>::wrap(call.Env(), std::make_shared<Session>(Handle<const Model>::get(call[0])), 0);
}

Napi::Value prefill(const Napi::CallbackInfo& call) {
  const auto session = Handle<Session>::get(call[0]);
  const auto external = Handle<Session>::from(call[0]).external;
  const auto tokens = integers(call[1], "tokens");
  const int64_t level = integer(call[2], "level");
  return startWork<int64_t>(
      call.Env(), call.Env().Undefined(),
      [=](const Job& job) {
        return session->append(tokens.data(), static_cast<int64_t>(tokens.size()), level, job);
      },
      [=](Napi::Env env, int64_t& length) {
        updateExternal(env, external, *session);
        return toNumber(env, static_cast<double>(length));
      });
}

Napi::Value logprobs(const Napi::CallbackInfo& call) {
  const auto session = Handle<Session>::get(call[0]);
  const auto external = Handle<Session>::from(call[0]).external;
  const auto tokens = integers(call[1], "tokens");
  const int64_t from = integer(call[2], "from"), level = integer(call[3], "level");
  return startWork<std::vector<double>>(
      call.Env(), call.Env().Undefined(),
      [=](const Job& job) {
        return session->logprobs(tokens.data(), static_cast<int64_t>(tokens.size()), from, level, job);
      },
      [=](Napi::Env env, std::vector<double>& values) {
        updateExternal(env, external, *session);
        return toArray(env, values);
      });
}

Napi::Value sample(const Napi::CallbackInfo& call) {
  return step(call.Env(), Handle<Session>::get(call[0])->sample(sampling(call[1])));
}

Napi::Value decode(const Napi::CallbackInfo& call) {
  const auto session = Handle<Session>::get(call[0]);
  const auto external = Handle<Session>::from(call[0]).external;
  const auto token = static_cast<int32_t>(integer(call[1], "token"));
  const int64_t level = integer(call[2], "level");
  const Sampling how = sampling(call[3]);
  return startWork<Sampled>(
      call.Env(), call.Env().Undefined(),
      [=](const Job& job) {
        session->append(&token, 1, level, job);
        return session->sample(how);
      },
      [=](Napi::Env env, Sampled& sampled) {
        updateExternal(env, external, *session);
        return step(env, sampled);
      });
}

Napi::Value speculate(const Napi::CallbackInfo& call) {
  const auto session = Handle<Session>::get(call[0]);
  const auto external = Handle<Session>::from(call[0]).external;
  const auto token = static_cast<int32_t>(integer(call[1], "token"));
  const Napi::Object from = object(call[2], "options");
  const DraftOptions options = {integer(from, "level"), integer(from, "tokens"), number(from, "least"),
                                integers(from.Get("ends"), "ends")};
  const Sampling how = sampling(call[3]);
  return startWork<SpeculationRound>(
      call.Env(), call.Env().Undefined(),
      [=](const Job& job) { return session->speculate(token, options, how, job); },
      [=](Napi::Env env, SpeculationRound& round) {
        updateExternal(env, external, *session);
        Napi::Object to = Napi::Object::New(env);
        to.Set("steps", toList(env, round.tokens, [&](const Sampled& sampled) { return step(env, sampled); }));
        to.Set("drafted", toNumber(env, static_cast<double>(round.drafted)));
        to.Set("draftSeconds", toNumber(env, round.draftSeconds));
        return to;
      });
}

// Sessions that one call works on together, and how to tell V8 what they hold afterwards.
struct SessionGroup {
  std::vector<std::shared_ptr<Session>> sessions;
  std::vector<std::shared_ptr<int64_t>> externals;

  explicit SessionGroup(const Napi::Value& handles) {
    sessions = list(handles, "sessions", [](const Napi::Value& v) { return Handle<Session>::get(v); });
    externals =
        list(handles, "sessions", [](const Napi::Value& v) { return Handle<Session>::from(v).external; });
  }

  size_t size() const { return sessions.size(); }
  void tell(Napi::Env env) const {
    for (size_t i = 0; i < size(); ++i) updateExternal(env, externals[i], *sessions[i]);
  }
};

// What became of one of several sessions: a step, or why there is none.
struct StepOutcome {
  Sampled sampled;
  std::shared_ptr<const Error> failure;
};

Napi::Value decodeEach(const Napi::CallbackInfo& call) {
  const SessionGroup group(call[0]);
  const auto tokens = integers(call[1], "tokens"), levels = integers(call[2], "levels");
  const auto how = list(call[3], "samplings", sampling);
  if (tokens.size() != group.size() || levels.size() != group.size() || how.size() != group.size()) {
    throw Error(code::internal, "one token, level and sampling per session is expected");
  }
  return startWork<std::vector<StepOutcome>>(
      call.Env(), call.Env().Undefined(),
      [=](const Job& job) {
        std::vector<NextToken> next;
        for (size_t i = 0; i < group.size(); ++i) {
          next.push_back({group.sessions[i].get(), tokens[i], levels[i]});
        }
        Session::appendEach(next, job);
        std::vector<StepOutcome> outcomes(group.size());
        if (group.size() == 0) return outcomes;
        ThreadPool::shared().parallelFor(
            static_cast<int64_t>(group.size()), group.sessions[0]->model().threads, [&](int64_t i) {
              outcomes[i].failure = failureOf([&] { outcomes[i].sampled = group.sessions[i]->sample(how[i]); });
            });
        return outcomes;
      },
      [=](Napi::Env env, std::vector<StepOutcome>& outcomes) {
        group.tell(env);
        return toList(env, outcomes, [&](const StepOutcome& outcome) {
          return outcome.failure ? toJavaScript(env, *outcome.failure) : step(env, outcome.sampled);
        });
      });
}

Napi::Value forkSession(const Napi::CallbackInfo& call) {
  const auto fork = Handle<Session>::get(call[0])->fork();
  return Handle<Session>::wrap(call.Env(), fork, static_cast<int64_t>(fork->bytes()));
}

Napi::Value startDivergences(const Napi::CallbackInfo& call) {
  const SessionGroup references(call[0]), others(call[1]);
  if (references.size() != others.size()) throw Error(code::internal, "one reference per session is expected");
  return startWork<std::vector<double>>(
      call.Env(), call.Env().Undefined(),
      [=](const Job& job) {
        std::vector<double> values(others.size());
        if (values.empty()) return values;
        ThreadPool::shared().parallelFor(
            static_cast<int64_t>(values.size()), others.sessions[0]->model().threads, [&](int64_t i) {
              job.check();
              values[i] = Session::divergence(*references.sessions[i], *others.sessions[i]);
            });
        return values;
      },
      [](Napi::Env env, std::vector<double>& values) { return toArray(env, values); });
}

Napi::Value rewind(const Napi::CallbackInfo& call) {
  Handle<Session>::get(call[0])->rewind(integer(call[1], "length"));
  return call.Env().Undefined();
}

Napi::Value startWindowLosses(const Napi::CallbackInfo& call) {
  const auto model = Handle<const Model>::get(call[0]);
  const auto tokens = integers(call[1], "tokens");
  const int64_t seqLen = integer(call[2], "seqLen"), level = integer(call[3], "level");
  return startWork<std::vector<double>>(
      call.Env(), call[4], [=](const Job& job) { return windowLosses(*model, tokens, seqLen, level, job); },
      [](Napi::Env env, std::vector<double>& losses) { return toArray(env, losses); });
}

Napi::Value startSelfText(const Napi::CallbackInfo& call) {
  const auto model = Handle<const Model>::get(call[0]);
  const SelfTextOptions options = selfTextOptions(object(call[1], "options"));
  return startWork<std::vector<int32_t>>(
      call.Env(), call[2], [=](const Job& job) { return writeSelfText(*model, options, job); },
      [](Napi::Env env, std::vector<int32_t>& text) { return toArray(env, text); });
}

Napi::Value calibrationMemory(const Napi::CallbackInfo& call) {
  const ModelConfig config = modelConfig(object(call[0], "config"));
  const Napi::Object from = object(call[1], "options");
  const int threads = static_cast<int>(integer(from, "threads"));
  const MemoryNeeds needs =
      memoryNeeds(config, momentKinds(whitening(from), boolean(from, "inputMoments"), boolean(from, "shrinks")),
                  integer(from, "sequences"), integer(from, "longest"),
                  threads > 0 ? threads : ThreadPool::availableCores());
  auto to = Napi::Object::New(call.Env());
  to.Set("least", toNumber(call.Env(), static_cast<double>(needs.least)));
  to.Set("everything", toNumber(call.Env(), static_cast<double>(needs.everything)));
  return to;
}

Napi::Value startCalibrate(const Napi::CallbackInfo& call) {
  const auto model = Handle<const Model>::get(call[0]);
  const CalibrationOptions options = calibrationOptions(object(call[1], "options"));
  return startWork<std::shared_ptr<const Calibration>>(
      call.Env(), call[2],
      [=](const Job& job) { return std::shared_ptr<const Calibration>(calibrate(model, options, job)); },
      calibrationResult);
}

Napi::Value startFactorize(const Napi::CallbackInfo& call) {
  const auto calibration = Handle<const Calibration>::get(call[0]);
  const Napi::Object from = object(call[1], "options");
  FactorizeOptions options;
  options.levels = levels(from);
  options.pivoted = text(from, "storage") == "pivoted";
  options.dtype = dtype(text(from, "dtype"));
  return startWork<std::shared_ptr<const Model>>(
      call.Env(), call[2], [=](const Job& job) { return factorize(*calibration, options, job); }, wrapModel);
}

Napi::Value startCutLosses(const Napi::CallbackInfo& call) {
  const auto calibration = Handle<const Calibration>::get(call[0]);
  const Napi::Object from = object(call[1], "cuts");
  const int64_t projection = integer(from, "projection");
  const auto ranks = integers(from.Get("ranks"), "ranks");
  const bool pivoted = text(from, "storage") == "pivoted";
  const auto tokens = integers(call[2], "tokens");
  const int64_t seqLen = integer(call[3], "seqLen");
  return startWork<std::vector<double>>(
      call.Env(), call[4],
      [=](const Job& job) { return cutLosses(*calibration, projection, ranks, pivoted, tokens, seqLen, job); },
      [](Napi::Env env, std::vector<double>& losses) { return toArray(env, losses); });
}

Napi::Value startCreateRecovery(const Napi::CallbackInfo& call) {
  const auto start = Handle<const Model>::get(call[0]);
  const auto teacher = Handle<const Model>::get(call[1]);
  const Napi::Object from = object(call[2], "options");
  const RecoveryOptions options = {integers(from.Get("tokens"), "tokens"),
                                   integers(from.Get("lengths"), "lengths"), dtype(text(from, "dtype")),
                                   integer(from, "memory"), text(from, "scratch")};
  return startWork<std::shared_ptr<Recovery>>(
      call.Env(), call.Env().Undefined(),
      [=](const Job& job) { return std::make_shared<Recovery>(start, teacher, options, job); },
      [](Napi::Env env, std::shared_ptr<Recovery>& recovery) {
        return Handle<Recovery>::wrap(env, recovery, static_cast<int64_t>(recovery->bytes()));
      });
}

Napi::Value figures(Napi::Env env, const RecoveryFigures& from) {
  Napi::Object to = Napi::Object::New(env);
  to.Set("kl", toNumber(env, from.kl));
  to.Set("loss", toNumber(env, from.loss));
  to.Set("rate", toNumber(env, from.rate));
  return to;
}

Napi::Value startRecoveryStep(const Napi::CallbackInfo& call) {
  const auto recovery = Handle<Recovery>::get(call[0]);
  const Napi::Object from = object(call[1], "step");
  const RecoveryStep step = {integers(from.Get("windows"), "windows"),
                             integer(from, "level"),
                             {number(from, "beta1"), number(from, "beta2")},
                             number(from, "rate"),
                             number(from, "change")};
  return startWork<RecoveryFigures>(
      call.Env(), call.Env().Undefined(), [=](const Job& job) { return recovery->step(step, job); }, figures);
}

Napi::Value startRecoveryEvaluation(const Napi::CallbackInfo& call) {
  const auto recovery = Handle<Recovery>::get(call[0]);
  const auto windows = integers(call[1], "windows");
  const int64_t level = integer(call[2], "level");
  return startWork<RecoveryFigures>(
      call.Env(), call.Env().Undefined(),
      [=](const Job& job) { return recovery->evaluate(windows, level, job); }, figures);
}

Napi::Value startKeepRecovery(const Napi::CallbackInfo& call) {
  const auto recovery = Handle<Recovery>::get(call[0]);
  return startEffect(call.Env(), call.Env().Undefined(), [=](const Job&) { recovery->keep(); });
}

Napi::Value startFinishRecovery(const Napi::CallbackInfo& call) {
  const auto recovery = Handle<Recovery>::get(call[0]);
  return startWork<std::shared_ptr<const Model>>(
      call.Env(), call.Env().Undefined(), [=](const Job& job) { return recovery->finish(job); }, wrapModel);
}

Napi::Value startSaveRecovery(const Napi::CallbackInfo& call) {
  const auto recovery = Handle<Recovery>::get(call[0]);
  const std::string file = call[1].ToString().Utf8Value(), note = call[2].ToString().Utf8Value();
  return startEffect(call.Env(), call.Env().Undefined(),
                     [=](const Job& job) { recovery->save(file, note, job); });
}

Napi::Value startLoadRecovery(const Napi::CallbackInfo& call) {
  const auto recovery = Handle<Recovery>::get(call[0]);
  const std::string file = call[1].ToString().Utf8Value();
  return startWork<std::string>(
      call.Env(), call.Env().Undefined(), [=](const Job& job) { return recovery->load(file, job); },
      [](Napi::Env env, std::string& note) -> Napi::Value { return Napi::String::New(env, note); });
}

Napi::Value listTensors(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  const auto model = Handle<const Model>::get(call[0]);
  return toList(env, tensorEntries(*model, call[1].ToBoolean()), [&](const TensorEntry& entry) {
    Napi::Object to = Napi::Object::New(env);
    to.Set("name", entry.name);
    to.Set("type", entry.type);
    to.Set("shape", toList(env, entry.shape,
                           [&](int64_t extent) { return toNumber(env, static_cast<double>(extent)); }));
    to.Set("byteLength", toNumber(env, static_cast<double>(entry.byteLength)));
    return to;
  });
}

Napi::Value startWriteTensors(const Napi::CallbackInfo& call) {
  const auto model = Handle<const Model>::get(call[0]);
  if (!call[1].IsString()) throw Error(code::internal, "file is not a string");
  const std::string file = call[1].As<Napi::String>();
  const auto names = list(call[2], "names", [](const Napi::Value& v) { return v.ToString().Utf8Value(); });
  const auto places = doubles(call[3], "offsets");
  if (names.size() != places.size()) throw Error(code::internal, "one offset per tensor is expected");
  std::vector<int64_t> offsets;
  for (double place : places) offsets.push_back(toInteger(place, "an offset"));
  const bool dense = call[4].ToBoolean();
  return startEffect(call.Env(), call[5],
                     [=](const Job& job) { writeTensors(*model, dense, file, names, offsets, job); });
}

// Native failures on the JavaScript thread become JavaScript errors with a code.
template <Napi::Value (*function)(const Napi::CallbackInfo&)>
Napi::Value guarded(const Napi::CallbackInfo& call) {
  Napi::Value result;
  const auto failure = failureOf([&] { result = function(call); });
  if (failure) {
    const Napi::Value error = toJavaScript(call.Env(), *failure);
    napi_throw(call.Env(), error);
    return call.Env().Undefined();
  }
  return result;
}

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  Environment::attach(env);
  auto add = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  add("info", guarded<info>);
  add("readBandwidth", guarded<startReadBandwidth>);
  add("loadModel", guarded<load>);
  add("modelInfo", guarded<modelInfo>);
  add("releaseModel", guarded<release<const Model>>);
  add("createSession", guarded<createSession>);
  add("prefill", guarded<prefill>);
  add("logprobs", guarded<logprobs>);
  add("sample", guarded<sample>);
  add("decode", guarded<decode>);
  add("speculate", guarded<speculate>);
  add("decodeEach", guarded<decodeEach>);
  add("forkSession", guarded<forkSession>);
  add("divergences", guarded<startDivergences>);
  add("rewind", guarded<rewind>);
  add("releaseSession", guarded<release<Session>>);
  add("windowLosses", guarded<startWindowLosses>);
  add("writeSelfText", guarded<startSelfText>);
  add("calibrationMemory", guarded<calibrationMemory>);
  add("calibrate", guarded<startCalibrate>);
  add("factorize", guarded<startFactorize>);
  add("cutLosses", guarded<startCutLosses>);
  add("releaseCalibration", guarded<release<const Calibration>>);
  add("createRecovery", guarded<startCreateRecovery>);
  add("recoveryStep", guarded<startRecoveryStep>);
  add("evaluateRecovery", guarded<startRecoveryEvaluation>);
  add("keepRecovery", guarded<startKeepRecovery>);
  add("finishRecovery", guarded<startFinishRecovery>);
  add("saveRecovery", guarded<startSaveRecovery>);
  add("loadRecovery", guarded<startLoadRecovery>);
  add("releaseRecovery", guarded<release<Recovery>>);
  add("tensorEntries", guarded<listTensors>);
  add("writeTensors", guarded<startWriteTensors>);
  return exports;
}

}  // namespace

NODE_API_MODULE(flrc, initialise)

}  // namespace flrc
