#include "runtime/libraries.h"

#include <cstddef>
#include <cstdlib>
#include <vector>

namespace flrc::gpu {
namespace {

void* open(const char* file) {
  std::vector<std::string> places = {file};
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
    if (const char* home = std::getenv(variable)) places.push_back(std::string(home) + "/lib64/" + file);
  }
  places.push_back(std::string("/usr/local/cuda/lib64/") + file);
  for (const std::string& place : places) {
    if (void* handle = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL)) return handle;
  }
  return nullptr;
}

int versionOf(void* handle, const LibrarySpec& spec) {
  void* function = dlsym(handle, spec.versionFunction);
  if (!function) return 0;
  if (spec.returnsVersion) return static_cast<int>(reinterpret_cast<size_t (*)()>(function)());
  int version = 0;
  return reinterpret_cast<int (*)(int*)>(function)(&version) == 0 ? version : 0;
}

}  // namespace

Library::Library(const LibrarySpec& spec) : name_(spec.name) {
  const std::string remedy = "; install the CUDA 13 toolkit, or put its libraries on LD_LIBRARY_PATH";
  handle_ = open(spec.file);
  if (!handle_) {
    missing_ = std::string(spec.name) + " is not there: " + spec.file + " was not found" + remedy;
    return;
  }
  const int version = versionOf(handle_, spec);
  if (version >= spec.oldest && version < spec.beyond) return;
  missing_ = std::string(spec.name) + " has version " + std::to_string(version) + ", and the plugin takes " +
             std::to_string(spec.oldest) + " to " + std::to_string(spec.beyond - 1) + remedy;
}

}  // namespace flrc::gpu
