#pragma once

// What the parts of the N-API face share: handles of native objects, and how functions reach JavaScript. Each
// part converts between lib/native-types.ts and plain structs, nothing more.

#include <napi.h>

#include <memory>

#include "calibrate/calibrate.h"
#include "calibrate/channels.h"
#include "core/error.h"
#include "model/model.h"
#include "model/session.h"
#include "platform/file.h"
#include "recover/recover.h"
#include "worker.h"

namespace flrc {

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

template <>
inline const napi_type_tag Handle<const Model>::tag = {0x6f1c2d9a54b34e01, 0x9d3a7f6612c84e11};
template <>
inline const napi_type_tag Handle<Session>::tag = {0x6f1c2d9a54b34e02, 0x9d3a7f6612c84e12};
template <>
inline const napi_type_tag Handle<const Calibration>::tag = {0x6f1c2d9a54b34e03, 0x9d3a7f6612c84e13};
template <>
inline const napi_type_tag Handle<Recovery>::tag = {0x6f1c2d9a54b34e04, 0x9d3a7f6612c84e14};
template <>
inline const napi_type_tag Handle<platform::FileLock>::tag = {0x6f1c2d9a54b34e05, 0x9d3a7f6612c84e15};
template <>
inline const napi_type_tag Handle<const Channels>::tag = {0x6f1c2d9a54b34e06, 0x9d3a7f6612c84e16};

inline Napi::Value wrapModel(Napi::Env env, const std::shared_ptr<const Model>& model) {
  return Handle<const Model>::wrap(env, model, static_cast<int64_t>(model->bytes()));
}

template <typename T>
Napi::Value release(const Napi::CallbackInfo& call) {
  Handle<T>::from(call[0]).release(call.Env());
  return call.Env().Undefined();
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

// Puts a part's functions into the module's exports.
class Exports {
 public:
  Exports(Napi::Env env, Napi::Object exports) : env_(env), exports_(exports) {}

  template <Napi::Value (*function)(const Napi::CallbackInfo&)>
  void add(const char* name) {
    exports_.Set(name, Napi::Function::New(env_, guarded<function>, name));
  }

 private:
  Napi::Env env_;
  Napi::Object exports_;
};

void addModelFunctions(Exports& exports);
void addSessionFunctions(Exports& exports);
void addCalibrationFunctions(Exports& exports);
void addChannelFunctions(Exports& exports);
void addRecoveryFunctions(Exports& exports);

}  // namespace flrc
