#pragma once

#include <new>
#include <stdexcept>
#include <string>
#include <string_view>

#include "backend.h"
#include "kernels/device_full.h"

namespace flrc::gpu {

// What goes wrong inside the plugin, with the code that the core shall see.
class Failure : public std::runtime_error {
 public:
  Failure(BackendCode result, const std::string& message) : std::runtime_error(message), code(result) {}

  BackendCode code;
};

inline void checkGoesOn(const BackendCancel& cancel) {
  if (cancel.cancelled(cancel.context)) throw Failure(BackendCode::aborted, "the operation was aborted");
}

// What make() gives, or null where memory does not hold it: what is free may be no one piece, or another's by
// then.
template <typename Make>
auto ifItFits(const Make& make) -> decltype(make()) {
  try {
    return make();
  } catch (const Failure& failure) {
    if (failure.code != BackendCode::outOfMemory) throw;
  } catch (const std::bad_alloc&) {
  }
  return nullptr;
}

// Runs a table function's body; whatever it throws becomes a code and words. What has no code of its own comes
// from the device.
template <typename Body>
BackendCode guarded(BackendFailure* failure, const Body& body) {
  const auto say = [failure](BackendCode code, const char* message) {
    const std::string_view words(message);
    const size_t length = words.copy(failure->message, sizeof failure->message - 1);
    failure->message[length] = '\0';
    return code;
  };
  try {
    body();
    return BackendCode::ok;
  } catch (const Failure& thrown) {
    return say(thrown.code, thrown.what());
  } catch (const DeviceFull& thrown) {
    return say(BackendCode::outOfMemory, thrown.what());
  } catch (const std::bad_alloc&) {
    return say(BackendCode::outOfMemory, "not enough memory on the host");
  } catch (const std::exception& thrown) {
    return say(BackendCode::device, thrown.what());
  }
}

}  // namespace flrc::gpu
