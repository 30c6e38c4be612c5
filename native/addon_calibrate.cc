// Calibrating, and cutting models from what it found.

#include "addon.h"
#include "addon_values.h"
#include "calibrate/factorize.h"
#include "calibrate/tensors.h"
#include "core/thread_pool.h"
#include "platform/process.h"

namespace flrc {
namespace {

Whitening whitening(const Napi::Object& from) {
  const std::string name = text(from, "whitening");
  return name == "none"     ? Whitening::none
         : name == "scaled" ? Whitening::scaled
         : name == "input"  ? Whitening::input
                            : Whitening::twoSided;
}

CalibrationOptions calibrationOptions(const Napi::Object& from) {
  CalibrationOptions options;
  static_cast<PassText&>(options) = passText(from);
  options.whitening = whitening(from);
  options.curves = boolean(from, "curves");
  options.jitter = number(from, "jitter");
  const Napi::Object shrinkage = object(from.Get("shrinkage"), "shrinkage");
  options.shrinkage = {number(shrinkage, "inputs"), number(shrinkage, "gradients")};
  options.memory = integer(from, "memory");
  options.scratch = text(from, "scratch");
  options.randomisedRank = integer(from, "randomisedRank");
  options.keepInputMoments = boolean(from, "keepInputMoments");
  if (from.Get("state").IsString()) options.state = text(from, "state");
  return options;
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
  to.Set("calibration", Handle<const Calibration>::wrap(env, calibration, calibration->memoryBytes()));
  to.Set("scores", byName);
  to.Set("singular", toList(env, calibration->singular, array));
  to.Set("curves", toList(env, calibration->curves, array));
  to.Set("lossTokens", toNumber(env, static_cast<double>(calibration->lossTokens)));
  to.Set("meanLoss", toNumber(env, calibration->meanLoss));
  to.Set("seconds", seconds);
  to.Set("peakBytes", toNumber(env, static_cast<double>(platform::peakMemory())));
  const LayerLimits& limits = calibration->limits;
  Napi::Object atOnce = Napi::Object::New(env);
  atOnce.Set("sequences", toNumber(env, limits.sequences));
  atOnce.Set("projections", toNumber(env, limits.projections));
  atOnce.Set("oneInput", Napi::Boolean::New(env, limits.oneInput));
  to.Set("atOnce", atOnce);
  return to;
}

Napi::Value calibrationMemory(const Napi::CallbackInfo& call) {
  const ModelConfig config = modelConfig(object(call[0], "config"));
  const Napi::Object from = object(call[1], "options");
  const int threads = static_cast<int>(integer(from, "threads"));
  const MemoryNeeds needs =
      memoryNeeds(config, momentKinds(whitening(from), boolean(from, "inputMoments"), boolean(from, "shrinks")),
                  integer(from, "sequences"), integer(from, "longest"),
                  threads > 0 ? threads : ThreadPool::availableCores());
  return toObject(call.Env(), needs);
}

Napi::Value startCalibrate(const Napi::CallbackInfo& call) {
  const auto model = Handle<const Model>::get(call[0]);
  const Napi::Object from = object(call[1], "options");
  const CalibrationOptions options = calibrationOptions(from);
  // Held until nothing writes to the state any more, which is after an aborted call has ended.
  const Napi::Value lock = from.Get("lock");
  const auto held = lock.IsObject() ? Handle<platform::FileLock>::get(lock) : nullptr;
  return startWork<std::shared_ptr<const Calibration>>(
      call.Env(), call[2],
      [model, options, held](const Job& job) {
        return std::shared_ptr<const Calibration>(calibrate(model, options, job));
      },
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

Napi::Value listTensors(const Napi::CallbackInfo& call) {
  return toArray(call.Env(), calibrationTensors(*Handle<const Calibration>::get(call[0])));
}

Napi::Value startWriteCalibration(const Napi::CallbackInfo& call) {
  const auto calibration = Handle<const Calibration>::get(call[0]);
  const TensorPlaces to = tensorPlaces(call[1], call[2], call[3]);
  return startEffect(call.Env(), call[4], [=](const Job& job) {
    writeCalibrationTensors(*calibration, to.file, to.names, to.offsets, job);
  });
}

Napi::Value startReadCalibration(const Napi::CallbackInfo& call) {
  const auto model = Handle<const Model>::get(call[0]);
  const Napi::Object from = object(call[1], "stored");
  const StoredCalibration stored = {list(from.Get("tensors"), "tensors", tensorSource), boolean(from, "curves"),
                                    boolean(from, "inputMoments"), integer(from, "memory")};
  return startWork<std::shared_ptr<const Calibration>>(
      call.Env(), call.Env().Undefined(), [=](const Job& job) { return readCalibration(model, stored, job); },
      calibrationResult);
}

}  // namespace

void addCalibrationFunctions(Exports& exports) {
  exports.add<calibrationMemory>("calibrationMemory");
  exports.add<startCalibrate>("calibrate");
  exports.add<startFactorize>("factorize");
  exports.add<startCutLosses>("cutLosses");
  exports.add<listTensors>("calibrationEntries");
  exports.add<startWriteCalibration>("writeCalibration");
  exports.add<startReadCalibration>("readCalibration");
  exports.add<release<const Calibration>>("releaseCalibration");
}

}  // namespace flrc
