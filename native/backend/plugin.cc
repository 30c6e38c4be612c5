#include "backend/plugin.h"

#include <cstddef>
#include <cstring>
#include <map>
#include <mutex>

#include "core/error.h"
#include "model/device.h"
#include "platform/library.h"

namespace flrc {
namespace {

[[noreturn]] void refuse(const std::string& file, const std::string& why) {
  throw Error(code::device, file + " " + why, file);
}

const Backend& open(const std::string& file) {
  if (!platform::isAbsolutePath(file)) refuse(file, "is no absolute path, and plugins are not searched for");
  std::string why;
  void* library = platform::openLibrary(file, why);
  if (!library) refuse(file, "does not open: " + why);
  const auto entry = reinterpret_cast<BackendEntry>(platform::findSymbol(library, kBackendEntry));
  if (!entry) refuse(file, std::string("is no plugin of flrc: it has no ") + kBackendEntry);
  const Backend* table = entry();
  const std::string problem = contractProblem(table);
  if (!problem.empty()) refuse(file, problem);
  return *table;
}

}  // namespace

std::string contractProblem(const Backend* table) {
  if (!table) return "gives no table";
  if (table->version != kBackendVersion) {
    return "is made for version " + std::to_string(table->version) +
           " of the plugin interface, and this flrc for " + std::to_string(kBackendVersion) +
           "; install flrc and its plugin in the same version";
  }
  if (table->size < sizeof(Backend)) return "has a table that is too short";
  // Every member from `name` on is a pointer.
  const auto* begin = reinterpret_cast<const char*>(table) + offsetof(Backend, name);
  for (const char* at = begin; at < reinterpret_cast<const char*>(table + 1); at += sizeof(void*)) {
    if (!*reinterpret_cast<void* const*>(at)) return "leaves out functions of its table";
  }
  return {};
}

const Backend& openPlugin(const std::string& file) {
  static std::mutex mutex;
  static std::map<std::string, const Backend*> opened;
  std::lock_guard<std::mutex> lock(mutex);
  const Backend*& table = opened[file];
  if (!table) table = &open(file);
  return *table;
}

std::string pluginNotes(const std::string& file) {
  BackendNotes notes{};
  openPlugin(file).notes(&notes);
  return {notes.text, strnlen(notes.text, sizeof notes.text)};
}

double pluginBandwidth(const std::string& file) {
  const Backend& table = openPlugin(file);
  double bandwidth = 0;
  callBackend([&](BackendFailure* failure) { return table.readBandwidth(&bandwidth, failure); });
  return bandwidth;
}

PluginState probePlugin(const std::string& file) {
  const Backend& table = openPlugin(file);
  PluginState state;
  state.name = table.name;
  BackendFailure failure{};
  state.score = table.score(&failure);
  if (state.score <= 0) {
    state.score = 0;
    state.missing = messageOf(failure);
  } else {
    callBackend([&](BackendFailure* why) { return table.describe(&state.device, why); });
  }
  return state;
}

}  // namespace flrc
