// Ranking the channels of MLPs, and models without some.

#include "addon.h"
#include "addon_values.h"
#include "core/thread_pool.h"

namespace flrc {
namespace {

ChannelOptions channelOptions(const Napi::Object& from) {
  ChannelOptions options;
  static_cast<PassText&>(options) = passText(from);
  options.jitter = number(from, "jitter");
  const Napi::Object shrinkage = object(from.Get("shrinkage"), "shrinkage");
  options.shrinkage = {number(shrinkage, "inputs"), number(shrinkage, "gradients")};
  options.group = integer(from, "group");
  options.memory = integer(from, "memory");
  options.scratch = text(from, "scratch");
  return options;
}

Napi::Value rankingResult(Napi::Env env, const std::shared_ptr<const Channels>& channels) {
  Napi::Object to = Napi::Object::New(env);
  to.Set("channels", Handle<const Channels>::wrap(env, channels, channels->moments->memoryBytes()));
  to.Set("costs",
         toList(env, channels->layers, [&](const ChannelRanking& layer) { return toArray(env, layer.costs); }));
  to.Set("lossTokens", toNumber(env, static_cast<double>(channels->lossTokens)));
  to.Set("meanLoss", toNumber(env, channels->meanLoss));
  to.Set("seconds", toNumber(env, channels->seconds));
  return to;
}

Napi::Value channelMemory(const Napi::CallbackInfo& call) {
  const Napi::Object from = object(call[1], "options");
  const int threads = static_cast<int>(integer(from, "threads"));
  return toObject(call.Env(), channelMemoryNeeds(modelConfig(object(call[0], "config")),
                                                 integer(from, "sequences"), integer(from, "longest"),
                                                 threads > 0 ? threads : ThreadPool::availableCores()));
}

Napi::Value startRankChannels(const Napi::CallbackInfo& call) {
  const auto model = Handle<const Model>::get(call[0]);
  const ChannelOptions options = channelOptions(object(call[1], "options"));
  return startWork<std::shared_ptr<const Channels>>(
      call.Env(), call[2],
      [model, options](const Job& job) {
        return std::shared_ptr<const Channels>(rankChannels(model, options, job));
      },
      rankingResult);
}

Napi::Value keptOfLayer(const Napi::CallbackInfo& call) {
  const auto channels = Handle<const Channels>::get(call[0]);
  return toArray(call.Env(), keptChannels(*channels, integer(call[1], "layer"), integer(call[2], "width")));
}

Napi::Value startDropChannels(const Napi::CallbackInfo& call) {
  const auto channels = Handle<const Channels>::get(call[0]);
  const auto widths = integers(call[1], "widths");
  return startWork<std::shared_ptr<const Model>>(
      call.Env(), call[2], [=](const Job& job) { return dropChannels(*channels, widths, job); }, wrapModel);
}

}  // namespace

void addChannelFunctions(Exports& exports) {
  exports.add<channelMemory>("channelMemory");
  exports.add<startRankChannels>("rankChannels");
  exports.add<keptOfLayer>("keptChannels");
  exports.add<startDropChannels>("dropChannels");
  exports.add<release<const Channels>>("releaseChannels");
}

}  // namespace flrc
