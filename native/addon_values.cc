#include "addon_values.h"

#include <algorithm>
#include <cmath>

namespace flrc {

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

Dtype dtype(const std::string& name) {
  if (name == "f32") return Dtype::f32;
  if (name == "bf16") return Dtype::bf16;
  if (name == "int8") return Dtype::int8;
  if (name == "int4") return Dtype::int4;
  throw Error(code::internal, "unknown dtype " + name);
}

static Activation activation(const std::string& name) {
  if (name == "silu") return Activation::silu;
  if (name == "gelu-tanh") return Activation::geluTanh;
  throw Error(code::internal, "unknown activation " + name);
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
  const std::vector<int32_t> intermediates = integers(from.Get("intermediateSizes"), "intermediateSizes");
  config.intermediates.assign(intermediates.begin(), intermediates.end());
  config.vocab = integer(from, "vocabSize");
  config.context = integer(from, "contextLength");
  config.eps = static_cast<float>(number(from, "rmsNormEps"));
  config.tieEmbeddings = boolean(from, "tieEmbeddings");
  config.qkvBias = boolean(from, "qkvBias");
  config.outputBias = boolean(from, "outputBias");
  config.mlpBias = boolean(from, "mlpBias");
  config.qkNorm = boolean(from, "qkNorm");
  config.slidingWindow = integers(from.Get("slidingWindow"), "slidingWindow");
  config.ropes = list(from.Get("ropes"), "ropes", [](const Napi::Value& v) {
    const Napi::Object rope = object(v, "a rotation");
    return Rope{doubles(rope.Get("frequencies"), "frequencies"), static_cast<float>(number(rope, "scale"))};
  });
  config.layerRope = integers(from.Get("layerRope"), "layerRope");
  config.activation = activation(text(from, "activation"));
  config.outputNorms = boolean(from, "outputNorms");
  config.normOffset = static_cast<float>(number(from, "normOffset"));
  config.embeddingScale = static_cast<float>(number(from, "embeddingScale"));
  config.queryScale = static_cast<float>(number(from, "queryScale"));
  config.residualScale = static_cast<float>(number(from, "residualScale"));
  config.logitScale = static_cast<float>(number(from, "logitScale"));
  return config;
}

PassText passText(const Napi::Object& from) {
  return {integers(from.Get("tokens"), "tokens"), integers(from.Get("lengths"), "lengths"),
          text(from, "labels") == "data" ? Labels::data : Labels::model,
          static_cast<uint64_t>(integer(from, "seed"))};
}

std::vector<std::vector<int32_t>> levels(const Napi::Object& from) {
  return list(from.Get("levels"), "levels", [](const Napi::Value& v) { return integers(v, "a level"); });
}

TensorSource tensorSource(const Napi::Value& value) {
  const Napi::Object from = object(value, "a tensor");
  TensorSource source;
  source.name = text(from, "name");
  if (from.Get("storedName").IsString()) source.storedName = text(from, "storedName");
  source.file = text(from, "file");
  source.offset = integer(from, "offset");
  source.byteLength = integer(from, "byteLength");
  source.type = sourceType(text(from, "type"));
  source.shape = list(from.Get("shape"), "shape", [](const Napi::Value& v) { return integer(v, "an extent"); });
  if (from.Get("interleavedHeads").IsNumber()) source.interleavedHeads = integer(from, "interleavedHeads");
  if (from.Get("excess").IsNumber()) source.excess = number(from, "excess");
  return source;
}

TensorPlaces tensorPlaces(const Napi::Value& file, const Napi::Value& names, const Napi::Value& offsets) {
  if (!file.IsString()) throw Error(code::internal, "file is not a string");
  TensorPlaces places;
  places.file = file.As<Napi::String>();
  places.names = list(names, "names", [](const Napi::Value& v) { return v.ToString().Utf8Value(); });
  for (double place : doubles(offsets, "offsets")) places.offsets.push_back(toInteger(place, "an offset"));
  if (places.names.size() != places.offsets.size()) {
    throw Error(code::internal, "one offset per tensor is expected");
  }
  return places;
}

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

Napi::Value toNumber(Napi::Env env, double value) { return Napi::Number::New(env, value); }

Napi::Value toObject(Napi::Env env, const MemoryNeeds& needs) {
  Napi::Object to = Napi::Object::New(env);
  to.Set("least", toNumber(env, static_cast<double>(needs.least)));
  to.Set("everything", toNumber(env, static_cast<double>(needs.everything)));
  return to;
}

Napi::Value toArray(Napi::Env env, const std::vector<TensorEntry>& entries) {
  return toList(env, entries, [&](const TensorEntry& entry) {
    Napi::Object to = Napi::Object::New(env);
    to.Set("name", entry.name);
    to.Set("type", entry.type);
    to.Set("shape", toList(env, entry.shape,
                           [&](int64_t extent) { return toNumber(env, static_cast<double>(extent)); }));
    to.Set("byteLength", toNumber(env, static_cast<double>(entry.byteLength)));
    return to;
  });
}

}  // namespace flrc
