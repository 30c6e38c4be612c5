// Loading, describing, passing texts through and writing models.

#include "addon.h"
#include "addon_values.h"
#include "backend/plugin.h"
#include "core/bandwidth.h"
#include "core/thread_pool.h"
#include "cpu/kernels.h"
#include "linalg/gemm.h"
#include "model/loader.h"
#include "model/self_text.h"
#include "model/window_losses.h"
#include "model/writer.h"

namespace flrc {
namespace {

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

Napi::Value startPluginBandwidth(const Napi::CallbackInfo& call) {
  if (!call[0].IsString()) throw Error(code::internal, "file is not a string");
  const std::string file = call[0].As<Napi::String>();
  return startWork<double>(
      call.Env(), call.Env().Undefined(), [file](const Job&) { return pluginBandwidth(file); },
      [](Napi::Env env, double& bandwidth) { return toNumber(env, bandwidth); });
}

Napi::Value notesOfPlugin(const Napi::CallbackInfo& call) {
  if (!call[0].IsString()) throw Error(code::internal, "file is not a string");
  return Napi::String::New(call.Env(), pluginNotes(call[0].As<Napi::String>()));
}

Napi::Value load(const Napi::CallbackInfo& call) {
  const Napi::Object from = object(call[0], "spec");
  ModelSpec spec;
  spec.config = modelConfig(object(from.Get("config"), "config"));
  spec.tensors = list(from.Get("tensors"), "tensors", tensorSource);
  spec.dtype = dtype(text(from, "dtype"));
  spec.threads = static_cast<int>(integer(from, "threads"));
  spec.levels = levels(from);
  const std::string plugin = from.Get("plugin").IsString() ? text(from, "plugin") : std::string();
  return startWork<std::shared_ptr<const Model>>(
      call.Env(), call[1],
      [spec, plugin](const Job& job) mutable {
        if (!plugin.empty()) spec.backend = &openPlugin(plugin);
        return loadModel(spec, job);
      },
      wrapModel);
}

Napi::Value startProbePlugin(const Napi::CallbackInfo& call) {
  if (!call[0].IsString()) throw Error(code::internal, "file is not a string");
  const std::string file = call[0].As<Napi::String>();
  return startWork<PluginState>(
      call.Env(), call.Env().Undefined(), [file](const Job&) { return probePlugin(file); },
      [](Napi::Env env, PluginState& state) {
        Napi::Object to = Napi::Object::New(env);
        to.Set("name", state.name);
        to.Set("score", toNumber(env, state.score));
        to.Set("missing", state.missing);
        to.Set("device", state.device.name);
        Napi::Object dtypes = Napi::Object::New(env);
        for (const char* name : {"f32", "bf16", "int8", "int4"}) {
          dtypes.Set(name, (state.device.dtypes >> static_cast<int>(dtype(name)) & 1u) != 0);
        }
        to.Set("dtypes", dtypes);
        return to;
      });
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

Napi::Value listTensors(const Napi::CallbackInfo& call) {
  const auto model = Handle<const Model>::get(call[0]);
  return toArray(call.Env(), tensorEntries(*model, call[1].ToBoolean()));
}

Napi::Value startWriteTensors(const Napi::CallbackInfo& call) {
  const auto model = Handle<const Model>::get(call[0]);
  const TensorPlaces to = tensorPlaces(call[1], call[2], call[3]);
  const bool dense = call[4].ToBoolean();
  return startEffect(call.Env(), call[5],
                     [=](const Job& job) { writeTensors(*model, dense, to.file, to.names, to.offsets, job); });
}

}  // namespace

void addModelFunctions(Exports& exports) {
  exports.add<info>("info");
  exports.add<startReadBandwidth>("readBandwidth");
  exports.add<startProbePlugin>("probePlugin");
  exports.add<startPluginBandwidth>("pluginBandwidth");
  exports.add<notesOfPlugin>("pluginNotes");
  exports.add<load>("loadModel");
  exports.add<modelInfo>("modelInfo");
  exports.add<release<const Model>>("releaseModel");
  exports.add<startWindowLosses>("windowLosses");
  exports.add<startSelfText>("writeSelfText");
  exports.add<listTensors>("tensorEntries");
  exports.add<startWriteTensors>("writeTensors");
}

}  // namespace flrc
