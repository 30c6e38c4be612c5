// The N-API face of the native core, as one module; its parts are addon_*.cc.

#include "addon.h"

#include "platform/library.h"

namespace flrc {
namespace {

// null where another has it.
Napi::Value lockFile(const Napi::CallbackInfo& call) {
  const std::string path = call[0].ToString().Utf8Value();
  auto lock = std::make_shared<platform::FileLock>(path);
  if (lock->state() == platform::FileLock::State::taken) return call.Env().Null();
  if (lock->state() == platform::FileLock::State::failed) {
    throw Error(code::io, path + " cannot be made: " + platform::lastError(), path);
  }
  return Handle<platform::FileLock>::wrap(call.Env(), lock, 0);
}

Napi::Value endWork(const Napi::CallbackInfo& call) {
  stopJobThreads();
  return call.Env().Undefined();
}

Napi::Object initialise(Napi::Env env, Napi::Object object) {
  platform::stayLoaded();
  Environment::attach(env);
  Exports exports(env, object);
  addModelFunctions(exports);
  addSessionFunctions(exports);
  addCalibrationFunctions(exports);
  addChannelFunctions(exports);
  addRecoveryFunctions(exports);
  exports.add<endWork>("endWork");
  exports.add<lockFile>("lockFile");
  exports.add<release<platform::FileLock>>("releaseLock");
  return object;
}

}  // namespace

NODE_API_MODULE(flrc, initialise)

}  // namespace flrc
