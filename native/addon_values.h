#pragma once

// Values from JavaScript and to it. What is not of the kind expected is E_INTERNAL: lib/ checks what users
// give.

#include <napi.h>

#include <cstdint>
#include <string>
#include <vector>

#include "calibrate/limits.h"
#include "calibrate/pass_text.h"
#include "core/error.h"
#include "model/config.h"
#include "tensor/dtype.h"
#include "tensor/output.h"
#include "tensor/source.h"

namespace flrc {

double number(const Napi::Object& object, const char* key);
int64_t toInteger(double value, const char* what);
int64_t integer(const Napi::Object& object, const char* key);
int64_t integer(const Napi::Value& value, const char* what);
bool boolean(const Napi::Object& object, const char* key);
std::string text(const Napi::Object& object, const char* key);
Napi::Object object(const Napi::Value& value, const char* what);
std::vector<int32_t> integers(const Napi::Value& value, const char* what);
std::vector<double> doubles(const Napi::Value& value, const char* what);

template <typename Convert>
auto list(const Napi::Value& value, const char* what, const Convert& convert) {
  if (!value.IsArray()) throw Error(code::internal, std::string(what) + " is not an array");
  const auto array = value.As<Napi::Array>();
  std::vector<decltype(convert(Napi::Value()))> values;
  values.reserve(array.Length());
  for (uint32_t i = 0; i < array.Length(); ++i) values.push_back(convert(array.Get(i)));
  return values;
}

Dtype dtype(const std::string& name);
ModelConfig modelConfig(const Napi::Object& from);
PassText passText(const Napi::Object& from);
std::vector<std::vector<int32_t>> levels(const Napi::Object& from);
TensorSource tensorSource(const Napi::Value& value);
// Names and absolute offsets of tensors to be written into a file.
struct TensorPlaces {
  std::string file;
  std::vector<std::string> names;
  std::vector<int64_t> offsets;
};
TensorPlaces tensorPlaces(const Napi::Value& file, const Napi::Value& names, const Napi::Value& offsets);

Napi::Value toArray(Napi::Env env, const std::vector<double>& values);
Napi::Value toArray(Napi::Env env, const std::vector<int32_t>& values);
Napi::Value toNumber(Napi::Env env, double value);
Napi::Value toObject(Napi::Env env, const MemoryNeeds& needs);
Napi::Value toArray(Napi::Env env, const std::vector<TensorEntry>& entries);

template <typename T, typename Convert>
Napi::Array toList(Napi::Env env, const std::vector<T>& values, const Convert& convert) {
  auto array = Napi::Array::New(env, values.size());
  for (size_t i = 0; i < values.size(); ++i) array.Set(static_cast<uint32_t>(i), convert(values[i]));
  return array;
}

}  // namespace flrc
