#include "platform/library.h"

#include <dlfcn.h>

namespace flrc::platform {

bool isAbsolutePath(const std::string& path) { return !path.empty() && path[0] == '/'; }

void* openLibrary(const std::string& path, std::string& why) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!library) why = dlerror();
  return library;
}

void* findSymbol(void* library, const char* name) { return dlsym(library, name); }

void stayLoaded() {
  Dl_info own{};
  if (dladdr(reinterpret_cast<const void*>(&stayLoaded), &own) == 0) return;
  // One more reference, which nobody gives back.
  dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

}  // namespace flrc::platform
