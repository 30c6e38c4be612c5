// Sessions: prefill, decoding, sampling, speculation.

#include <optional>

#include "addon.h"
#include "addon_values.h"
#include "core/thread_pool.h"

namespace flrc {
namespace {

// Tells V8 how much a session holds by now, unless it was released meanwhile.
void updateExternal(Napi::Env env, const std::shared_ptr<int64_t>& external, const Session& session) {
  if (*external == Handle<Session>::kReleased) return;
  const auto bytes = static_cast<int64_t>(session.bytes());
  Napi::MemoryManagement::AdjustExternalMemory(env, bytes - *external);
  *external = bytes;
}

Sampling sampling(const Napi::Value& value) {
  const Napi::Object from = object(value, "sampling");
  return {number(from, "temperature"),
          integer(from, "topK"),
          number(from, "topP"),
          number(from, "minP"),
          static_cast<uint64_t>(integer(from, "seed")),
          static_cast<uint64_t>(integer(from, "draw"))};
}

std::vector<Penalty> penalties(const Napi::Value& value) {
  const Napi::Value given = object(value, "sampling").Get("penalties");
  if (given.IsUndefined()) return {};
  const Napi::Object from = object(given, "penalties");
  const auto tokens = integers(from.Get("tokens"), "tokens");
  const auto factors = doubles(from.Get("factors"), "factors"),
             offsets = doubles(from.Get("offsets"), "offsets");
  if (factors.size() != tokens.size() || offsets.size() != tokens.size()) {
    throw Error(code::internal, "one factor and offset per penalised token is expected");
  }
  std::vector<Penalty> all;
  for (size_t i = 0; i < tokens.size(); ++i) {
    all.push_back({tokens[i], static_cast<float>(factors[i]), static_cast<float>(offsets[i])});
  }
  return all;
}

// How many of the likeliest tokens a step names beside its own.
int64_t alternatives(const Napi::Value& value) {
  const Napi::Object from = object(value, "sampling");
  return from.Get("alternatives").IsUndefined() ? 0 : integer(from, "alternatives");
}

struct Step {
  Sampled sampled;
  std::vector<TokenLogprob> likeliest;
};

Napi::Value step(Napi::Env env, const Step& from) {
  Napi::Object to = Napi::Object::New(env);
  to.Set("tokenId", toNumber(env, from.sampled.token));
  to.Set("logprob", toNumber(env, from.sampled.logprob));
  to.Set("entropy", toNumber(env, from.sampled.entropy));
  if (!from.likeliest.empty()) {
    to.Set("likeliest", toList(env, from.likeliest, [&](const TokenLogprob& one) {
             Napi::Object token = Napi::Object::New(env);
             token.Set("tokenId", toNumber(env, one.token));
             token.Set("logprob", toNumber(env, one.logprob));
             return token;
           }));
  }
  return to;
}

Napi::Value createSession(const Napi::CallbackInfo& call) {
  return Handle<Session>::wrap(call.Env(), std::make_shared<Session>(Handle<const Model>::get(call[0])), 0);
}

Napi::Value prefill(const Napi::CallbackInfo& call) {
  const auto session = Handle<Session>::get(call[0]);
  const auto external = Handle<Session>::from(call[0]).external;
  const auto tokens = integers(call[1], "tokens");
  const int64_t level = integer(call[2], "level");
  return startWork<int64_t>(
      call.Env(), call.Env().Undefined(),
      [=](const Job& job) {
        return session->append(tokens.data(), static_cast<int64_t>(tokens.size()), level, job);
      },
      [=](Napi::Env env, int64_t& length) {
        updateExternal(env, external, *session);
        return toNumber(env, static_cast<double>(length));
      });
}

Napi::Value logprobs(const Napi::CallbackInfo& call) {
  const auto session = Handle<Session>::get(call[0]);
  const auto external = Handle<Session>::from(call[0]).external;
  const auto tokens = integers(call[1], "tokens");
  const int64_t from = integer(call[2], "from"), level = integer(call[3], "level");
  return startWork<std::vector<double>>(
      call.Env(), call.Env().Undefined(),
      [=](const Job& job) {
        return session->logprobs(tokens.data(), static_cast<int64_t>(tokens.size()), from, level, job);
      },
      [=](Napi::Env env, std::vector<double>& values) {
        updateExternal(env, external, *session);
        return toArray(env, values);
      });
}

Napi::Value sample(const Napi::CallbackInfo& call) {
  const auto session = Handle<Session>::get(call[0]);
  const Sampled sampled = session->sample(sampling(call[1]), penalties(call[1]));
  return step(call.Env(), {sampled, session->likeliest(alternatives(call[1]))});
}

Napi::Value decode(const Napi::CallbackInfo& call) {
  const auto session = Handle<Session>::get(call[0]);
  const auto external = Handle<Session>::from(call[0]).external;
  const auto token = static_cast<int32_t>(integer(call[1], "token"));
  const int64_t level = integer(call[2], "level");
  const Sampling how = sampling(call[3]);
  const auto penalised = penalties(call[3]);
  const int64_t wanted = alternatives(call[3]);
  return startWork<Step>(
      call.Env(), call.Env().Undefined(),
      [=](const Job& job) -> Step {
        session->append(&token, 1, level, job);
        const Sampled sampled = session->sample(how, penalised);
        return {sampled, session->likeliest(wanted)};
      },
      [=](Napi::Env env, Step& made) {
        updateExternal(env, external, *session);
        return step(env, made);
      });
}

Napi::Value speculate(const Napi::CallbackInfo& call) {
  const auto session = Handle<Session>::get(call[0]);
  const auto external = Handle<Session>::from(call[0]).external;
  const auto token = static_cast<int32_t>(integer(call[1], "token"));
  const Napi::Object from = object(call[2], "options");
  const DraftOptions options = {integer(from, "level"), integer(from, "tokens"), number(from, "least"),
                                integers(from.Get("ends"), "ends")};
  const Sampling how = sampling(call[3]);
  return startWork<SpeculationRound>(
      call.Env(), call.Env().Undefined(),
      [=](const Job& job) { return session->speculate(token, options, how, job); },
      [=](Napi::Env env, SpeculationRound& round) {
        updateExternal(env, external, *session);
        Napi::Object to = Napi::Object::New(env);
        to.Set("steps", toList(env, round.tokens, [&](const Sampled& sampled) {
                 return step(env, {sampled, {}});
               }));
        to.Set("drafted", toNumber(env, static_cast<double>(round.drafted)));
        to.Set("draftSeconds", toNumber(env, round.draftSeconds));
        return to;
      });
}

// Sessions that one call works on together, and how to tell V8 what they hold afterwards.
struct SessionGroup {
  std::vector<std::shared_ptr<Session>> sessions;
  std::vector<std::shared_ptr<int64_t>> externals;

  explicit SessionGroup(const Napi::Value& handles) {
    sessions = list(handles, "sessions", [](const Napi::Value& v) { return Handle<Session>::get(v); });
    externals =
        list(handles, "sessions", [](const Napi::Value& v) { return Handle<Session>::from(v).external; });
  }

  size_t size() const { return sessions.size(); }
  void tell(Napi::Env env) const {
    for (size_t i = 0; i < size(); ++i) updateExternal(env, externals[i], *sessions[i]);
  }
};

Napi::Value decodeEach(const Napi::CallbackInfo& call) {
  const SessionGroup group(call[0]);
  const auto tokens = integers(call[1], "tokens"), levels = integers(call[2], "levels");
  const auto how = list(call[3], "samplings", sampling);
  const auto penalised = list(call[3], "samplings", penalties);
  const auto wanted = list(call[3], "samplings", alternatives);
  if (tokens.size() != group.size() || levels.size() != group.size() || how.size() != group.size()) {
    throw Error(code::internal, "one token, level and sampling per session is expected");
  }
  return startWork<std::vector<Step>>(
      call.Env(), call.Env().Undefined(),
      [=](const Job& job) {
        std::vector<NextToken> next;
        std::vector<NextDraw> draws;
        for (size_t i = 0; i < group.size(); ++i) {
          next.push_back({group.sessions[i].get(), tokens[i], levels[i]});
          draws.push_back({group.sessions[i].get(), how[i], penalised[i]});
        }
        Session::appendEach(next, job);
        std::vector<Step> steps;
        for (const Sampled& sampled : Session::sampleEach(draws)) {
          const size_t i = steps.size();
          const int64_t beside = sampled.token < 0 ? 0 : wanted[i];
          steps.push_back({sampled, group.sessions[i]->likeliest(beside)});
        }
        return steps;
      },
      [=](Napi::Env env, std::vector<Step>& steps) {
        group.tell(env);
        return toList(env, steps, [&](const Step& made) {
          return made.sampled.token < 0 ? toJavaScript(env, notFinite()) : step(env, made);
        });
      });
}

Napi::Value startFork(const Napi::CallbackInfo& call) {
  const auto session = Handle<Session>::get(call[0]);
  const auto length = call[1].IsUndefined() ? std::nullopt : std::optional(integer(call[1], "length"));
  return startWork<std::shared_ptr<Session>>(
      call.Env(), call.Env().Undefined(), [=](const Job&) { return session->fork(length); },
      [](Napi::Env env, std::shared_ptr<Session>& fork) {
        return Handle<Session>::wrap(env, fork, static_cast<int64_t>(fork->bytes()));
      });
}

Napi::Value restSession(const Napi::CallbackInfo& call) {
  const auto session = Handle<Session>::get(call[0]);
  session->rest();
  updateExternal(call.Env(), Handle<Session>::from(call[0]).external, *session);
  return call.Env().Undefined();
}

Napi::Value moveSession(const Napi::CallbackInfo& call) {
  const auto session = Handle<Session>::get(call[0]);
  session->moveTo(Handle<const Model>::get(call[1]));
  updateExternal(call.Env(), Handle<Session>::from(call[0]).external, *session);
  return call.Env().Undefined();
}

Napi::Value startDivergences(const Napi::CallbackInfo& call) {
  const SessionGroup references(call[0]), others(call[1]);
  if (references.size() != others.size()) throw Error(code::internal, "one reference per session is expected");
  return startWork<std::vector<double>>(
      call.Env(), call.Env().Undefined(),
      [=](const Job& job) {
        std::vector<double> values(others.size());
        if (values.empty()) return values;
        ThreadPool::shared().parallelFor(
            static_cast<int64_t>(values.size()), others.sessions[0]->model().threads, [&](int64_t i) {
              job.check();
              values[i] = Session::divergence(*references.sessions[i], *others.sessions[i]);
            });
        return values;
      },
      [](Napi::Env env, std::vector<double>& values) { return toArray(env, values); });
}

Napi::Value sessionBytes(const Napi::CallbackInfo& call) {
  return toNumber(call.Env(), static_cast<double>(Handle<Session>::get(call[0])->bytes()));
}

Napi::Value rewind(const Napi::CallbackInfo& call) {
  Handle<Session>::get(call[0])->rewind(integer(call[1], "length"));
  return call.Env().Undefined();
}

}  // namespace

void addSessionFunctions(Exports& exports) {
  exports.add<createSession>("createSession");
  exports.add<prefill>("prefill");
  exports.add<logprobs>("logprobs");
  exports.add<sample>("sample");
  exports.add<decode>("decode");
  exports.add<speculate>("speculate");
  exports.add<decodeEach>("decodeEach");
  exports.add<startFork>("forkSession");
  exports.add<restSession>("restSession");
  exports.add<moveSession>("moveSession");
  exports.add<startDivergences>("divergences");
  exports.add<sessionBytes>("sessionBytes");
  exports.add<rewind>("rewind");
  exports.add<release<Session>>("releaseSession");
}

}  // namespace flrc
