#pragma once

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace flrc::gpu {

// One of NVIDIA's own libraries, which are too large to be linked in: opened when first needed, used where its
// version is one that the plugin was built for.
struct LibrarySpec {
  const char* name;  // for messages
  const char* file;  // with the version of its interface
  const char* versionFunction;
  bool returnsVersion;  // size_t f(); otherwise int f(int* version)
  int oldest, beyond;   // versions in [oldest, beyond)
};

inline constexpr LibrarySpec kCublasLt = {"cuBLAS", "libcublasLt.so.13", "cublasLtGetVersion", true, 130000,
                                          140000};
inline constexpr LibrarySpec kCusolver = {"cuSOLVER", "libcusolver.so.12", "cusolverGetVersion", false, 12000,
                                          13000};

class Library {
 public:
  // Looked for as dlopen does, then in the toolkit's folder: CUDA_HOME, CUDA_PATH, or where NVIDIA's installer
  // puts it.
  explicit Library(const LibrarySpec& spec);

  // Why it cannot be used, and what to install; empty where it can.
  const std::string& missing() const { return missing_; }
  // A function of it, by its own type. Throws where there is none.
  template <typename Function>
  void find(Function*& function, const char* name) const {
    function = missing_.empty() ? reinterpret_cast<Function*>(dlsym(handle_, name)) : nullptr;
    if (!function) throw std::runtime_error(name_ + " has no " + name);
  }

 private:
  std::string name_;
  void* handle_ = nullptr;
  std::string missing_;
};

}  // namespace flrc::gpu
