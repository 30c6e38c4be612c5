#pragma once

// The one way long work leaves the JavaScript thread: startWork() runs it on a thread of its own, gives
// JavaScript {promise, cancel}, and settles the promise on the JavaScript thread. The work owns its inputs.
// When the environment ends (a terminated worker thread, the end of the main script) its work is cancelled and
// waited for up to its next check; process.exit() skips that, and stopJobThreads() sees to it.

#include <napi.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <string>
#include <utility>

#include "core/job.h"
#include "core/job_threads.h"

namespace flrc {

// What one JavaScript environment shares with its running work.
class Environment {
 public:
  using Call = std::function<void(Napi::Env)>;

  // Made once per environment, as its instance data.
  static void attach(Napi::Env env) {
    auto* holder = new std::shared_ptr<Environment>(std::make_shared<Environment>());
    Environment& self = **holder;
    napi_value name;
    napi_create_string_utf8(env, "flrc", NAPI_AUTO_LENGTH, &name);
    if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, dispatch,
                                        &self.queue_) != napi_ok) {
      delete holder;
      throw Napi::Error::New(env, "the completion queue could not be made");
    }
    napi_unref_threadsafe_function(env, self.queue_);
    env.SetInstanceData<std::shared_ptr<Environment>>(holder);
    napi_add_env_cleanup_hook(env, close, &self);
  }

  static std::shared_ptr<Environment> of(Napi::Env env) {
    return *env.GetInstanceData<std::shared_ptr<Environment>>();
  }

  // Queues a call on the JavaScript thread. Once the environment closes the call is dropped, together with what
  // it owns of JavaScript, which is gone by then. Any thread.
  void post(Call call) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto* item = new Call(std::move(call));
    if (closing_ || napi_call_threadsafe_function(queue_, item, napi_tsfn_nonblocking) != napi_ok) delete item;
  }

  // JavaScript thread. Work under way keeps the event loop alive.
  void begin(Napi::Env env, const std::shared_ptr<Job>& job) {
    if (pending_++ == 0) napi_ref_threadsafe_function(env, queue_);
    std::lock_guard<std::mutex> lock(mutex_);
    running_.insert(job);
  }
  void settled(Napi::Env env) {
    if (--pending_ == 0) napi_unref_threadsafe_function(env, queue_);
  }
  // The work's thread, its last word.
  void ended(const std::shared_ptr<Job>& job) {
    std::lock_guard<std::mutex> lock(mutex_);
    running_.erase(job);
    idle_.notify_all();
  }

 private:
  static void dispatch(napi_env env, napi_value, void*, void* data) {
    std::unique_ptr<Call> call(static_cast<Call*>(data));
    if (!env) return;
    Napi::HandleScope scope(env);
    try {
      (*call)(Napi::Env(env));
    } catch (const Napi::Error& error) {
      napi_fatal_exception(env, error.Value());
    }
  }

  static void close(void* data) {
    auto* self = static_cast<Environment*>(data);
    std::unique_lock<std::mutex> lock(self->mutex_);
    self->closing_ = true;
    for (const auto& job : self->running_) job->cancel();
    self->idle_.wait(lock, [self] { return self->running_.empty(); });
  }

  std::mutex mutex_;
  std::condition_variable idle_;
  napi_threadsafe_function queue_ = nullptr;
  bool closing_ = false;
  int pending_ = 0;  // JavaScript thread only
  std::set<std::shared_ptr<Job>> running_;
};

inline Napi::Value toJavaScript(Napi::Env env, const Error& error) {
  Napi::Error value = Napi::Error::New(env, error.what());
  value.Set("code", Napi::String::New(env, error.code));
  if (!error.file.empty()) value.Set("file", Napi::String::New(env, error.file));
  if (!error.tensor.empty()) value.Set("tensor", Napi::String::New(env, error.tensor));
  return value.Value();
}

// Any failure of native work as an Error with a code.
template <typename Work>
std::unique_ptr<Error> failureOf(const Work& work) {
  try {
    work();
    return nullptr;
  } catch (const Error& error) {
    return std::make_unique<Error>(error);
  } catch (const std::bad_alloc&) {
    return std::make_unique<Error>(
        code::outOfMemory, "not enough memory; use a smaller dtype, fewer tokens or a smaller --memory");
  } catch (const std::exception& error) {
    return std::make_unique<Error>(code::internal, error.what());
  }
}

// work(job) -> Result on a thread of its own; toValue(env, Result&) on the JavaScript thread. Returns
// {promise, cancel}. onProgress may be undefined.
template <typename Result>
Napi::Value startWork(Napi::Env env, Napi::Value onProgress, std::function<Result(const Job&)> work,
                      std::function<Napi::Value(Napi::Env, Result&)> toValue) {
  // JavaScript values of one task; touched and deleted on the JavaScript thread only.
  struct Pending {
    Napi::Promise::Deferred deferred;
    Napi::FunctionReference progress;
  };
  auto* pending = new Pending{Napi::Promise::Deferred::New(env), {}};
  std::shared_ptr<Environment> environment = Environment::of(env);

  Job::Progress report;
  if (onProgress.IsFunction()) {
    pending->progress = Napi::Persistent(onProgress.As<Napi::Function>());
    struct Limiter {
      std::mutex mutex;
      std::chrono::steady_clock::time_point last{};
    };
    auto limiter = std::make_shared<Limiter>();
    report = [environment, pending, limiter](const char* stage, int64_t done, int64_t total) {
      {
        std::lock_guard<std::mutex> lock(limiter->mutex);
        const auto now = std::chrono::steady_clock::now();
        if (done < total && now - limiter->last < std::chrono::milliseconds(50)) return;
        limiter->last = now;
      }
      environment->post([pending, stage, done, total](Napi::Env to) {
        pending->progress.Call({Napi::String::New(to, stage), Napi::Number::New(to, static_cast<double>(done)),
                                Napi::Number::New(to, static_cast<double>(total))});
      });
    };
  }
  auto job = std::make_shared<Job>(std::move(report));
  environment->begin(env, job);

  Napi::Object task = Napi::Object::New(env);
  task.Set("promise", pending->deferred.Promise());
  task.Set("cancel", Napi::Function::New(env, [job](const Napi::CallbackInfo&) { job->cancel(); }));
  auto run = [environment, pending, job, work = std::move(work), toValue = std::move(toValue)]() mutable {
    auto result = std::make_shared<std::unique_ptr<Result>>();
    std::shared_ptr<Error> failure = failureOf([&] { *result = std::make_unique<Result>(work(*job)); });
    work = nullptr;  // inputs are freed here, not whenever JavaScript gets round to the result
    environment->post([environment, pending, result, failure, toValue = std::move(toValue)](Napi::Env to) {
      std::unique_ptr<Pending> owned(pending);
      environment->settled(to);
      if (failure) {
        owned->deferred.Reject(toJavaScript(to, *failure));
      } else {
        owned->deferred.Resolve(toValue(to, **result));
      }
    });
    environment->ended(job);
  };
  if (const auto refused = failureOf([&] { runOnJobThread(job, std::move(run)); })) {
    std::unique_ptr<Pending> owned(pending);
    environment->ended(job);
    environment->settled(env);
    owned->deferred.Reject(toJavaScript(env, *refused));
  }
  return task;
}

}  // namespace flrc
