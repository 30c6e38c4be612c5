#pragma once

#include <cstdio>
#include <cstring>
#include <exception>
#include <new>

#include "backend.h"
#include "core/error.h"
#include "core/job.h"
#include "model/model.h"

namespace flrc {

// What DeviceModel is to the CPU's table.
inline const Model& modelOf(const DeviceModel* weights) { return *reinterpret_cast<const Model*>(weights); }

// Whoever calls that table is the core, and its cancelling that of a Job.
inline const Job& jobOf(const BackendCancel* cancel) { return *static_cast<const Job*>(cancel->context); }

inline BackendCode codeOf(const char* name) {
  if (!std::strcmp(name, code::outOfMemory)) return BackendCode::outOfMemory;
  if (!std::strcmp(name, code::aborted)) return BackendCode::aborted;
  if (!std::strcmp(name, code::numeric)) return BackendCode::numeric;
  return BackendCode::internal;
}

inline BackendCode failed(BackendCode result, const char* message, BackendFailure* failure) {
  std::snprintf(failure->message, sizeof failure->message, "%s", message);
  return result;
}

// Runs the body of a function of the CPU's table; what it throws becomes a code and words.
template <typename Body>
BackendCode guarded(BackendFailure* failure, const Body& body) {
  try {
    body();
    return BackendCode::ok;
  } catch (const Error& error) {
    return failed(codeOf(error.code), error.what(), failure);
  } catch (const std::bad_alloc&) {
    return failed(BackendCode::outOfMemory, "not enough memory; use a smaller dtype or fewer tokens", failure);
  } catch (const std::exception& error) {
    return failed(BackendCode::internal, error.what(), failure);
  }
}

}  // namespace flrc
