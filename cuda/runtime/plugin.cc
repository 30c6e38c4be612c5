// The plugin's table (native/backend.h).

#include <cstdio>
#include <string>

#include "backend.h"
#include "runtime/driver.h"

namespace flrc::cuda {
namespace {

void say(BackendFailure* failure, const std::string& message) {
  std::snprintf(failure->message, sizeof failure->message, "%s", message.c_str());
}

int32_t score(BackendFailure* failure) {
  const DriverState state = probeDriver();
  say(failure, state.missing.empty() ? "this build of the plugin has no kernels" : state.missing);
  return 0;
}

// What is never called where the score is 0.
template <typename... Arguments>
BackendCode refuse(Arguments...) {
  return BackendCode::internal;
}
template <typename Object>
void ignore(Object*) {}
template <typename Object>
uint64_t nothing(const Object*) {
  return 0;
}

}  // namespace
}  // namespace flrc::cuda

extern "C" __attribute__((visibility("default"))) const flrc::Backend* flrc_backend() {
  using namespace flrc;
  using namespace flrc::cuda;
  static const Backend table = {sizeof(Backend), kBackendVersion, "cuda", score,   refuse, refuse, ignore,
                                refuse,          refuse,          ignore, nothing, refuse, ignore, nothing,
                                refuse,          refuse,          refuse, refuse,  refuse, refuse};
  return &table;
}
