// The N-API face of the native core, as one module; its parts are addon_*.cc.

#include "addon.h"

#include "platform/library.h"

namespace flrc {
namespace {

Napi::Object initialise(Napi::Env env, Napi::Object object) {
  platform::stayLoaded();
  Environment::attach(env);
  Exports exports(env, object);
  addModelFunctions(exports);
  addSessionFunctions(exports);
  addCalibrationFunctions(exports);
  addRecoveryFunctions(exports);
  return object;
}

}  // namespace

NODE_API_MODULE(flrc, initialise)

}  // namespace flrc
