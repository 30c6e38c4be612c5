#pragma once

#include <string>

namespace flrc::platform {

bool isAbsolutePath(const std::string& path);

// Opens a shared library for the life of the process: its threads may run as long as that. Paths are UTF-8.
// Null where it does not open, and the reason in `why`.
void* openLibrary(const std::string& path, std::string& why);

// Address of what a library exports as `name`; null where there is none.
void* findSymbol(void* library, const char* name);

// Keeps the library that this code is in loaded for the life of the process: the end of a worker thread would
// otherwise unload it under its pool's feet.
void stayLoaded();

}  // namespace flrc::platform
