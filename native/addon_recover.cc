// Training factors towards the dense model.

#include "addon.h"
#include "addon_values.h"

namespace flrc {
namespace {

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
  // Held until nothing writes to the state any more, which is after an aborted call has ended.
  const auto held = Handle<platform::FileLock>::get(call[3]);
  return startEffect(call.Env(), call.Env().Undefined(),
                     [recovery, file, note, held](const Job& job) { recovery->save(file, note, job); });
}

Napi::Value startLoadRecovery(const Napi::CallbackInfo& call) {
  const auto recovery = Handle<Recovery>::get(call[0]);
  const std::string file = call[1].ToString().Utf8Value();
  return startWork<std::string>(
      call.Env(), call.Env().Undefined(), [=](const Job& job) { return recovery->load(file, job); },
      [](Napi::Env env, std::string& note) -> Napi::Value { return Napi::String::New(env, note); });
}

}  // namespace

void addRecoveryFunctions(Exports& exports) {
  exports.add<startCreateRecovery>("createRecovery");
  exports.add<startRecoveryStep>("recoveryStep");
  exports.add<startRecoveryEvaluation>("evaluateRecovery");
  exports.add<startKeepRecovery>("keepRecovery");
  exports.add<startFinishRecovery>("finishRecovery");
  exports.add<startSaveRecovery>("saveRecovery");
  exports.add<startLoadRecovery>("loadRecovery");
  exports.add<release<Recovery>>("releaseRecovery");
}

}  // namespace flrc
