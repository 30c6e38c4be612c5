#pragma once

#include <string>

#include "backend.h"

namespace flrc {

// What keeps a plugin's table from being used, as said of its file ("gives no table"); empty where nothing
// does.
std::string contractProblem(const Backend* table);

// Opens a plugin, once and for the life of the process. `file` is an absolute path: nothing is searched for.
// E_DEVICE, naming the file, where it does not open or its table is not the one of this version.
const Backend& openPlugin(const std::string& file);

// What a plugin can do on this machine.
struct PluginState {
  std::string name;
  int32_t score = 0;
  std::string missing;     // where the score is 0: what keeps it from running here
  BackendDevice device{};  // where it is not
};
PluginState probePlugin(const std::string& file);

// What a user should know of how the plugin computes, found out so far (BackendNotes).
std::string pluginNotes(const std::string& file);

// Bytes per second that a plugin's device reads from its memory, measured. E_DEVICE.
double pluginBandwidth(const std::string& file);

}  // namespace flrc
