#include "runtime/driver.h"

#include <dlfcn.h>

namespace flrc::gpu {
namespace {

// Of cuda.h; the driver keeps these numbers and the functions' names for good.
constexpr int kNoDevice = 100;
constexpr int kComputeMajor = 75;
constexpr int kComputeMinor = 76;

class Library {
 public:
  explicit Library(const char* name) : handle_(dlopen(name, RTLD_NOW | RTLD_LOCAL)) {}
  // Left open: the run-time library opens it as well.
  bool opened() const { return handle_ != nullptr; }

  template <typename... Arguments>
  int call(const char* function, Arguments... arguments) const {
    using Function = int (*)(Arguments...);
    const auto address = reinterpret_cast<Function>(dlsym(handle_, function));
    return address ? address(arguments...) : kMissing;
  }

 private:
  static constexpr int kMissing = -1;
  void* handle_;
};

std::string failureOf(const char* step, int result) {
  return std::string("NVIDIA's driver fails at ") + step + " (CUDA error " + std::to_string(result) +
         "); see whether nvidia-smi works, and restart the machine after a driver update";
}

}  // namespace

std::string versionText(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

DriverState probeDriver(const char* name) {
  DriverState state;
  const auto lacks = [&](std::string what) {
    state.missing = std::move(what);
    return state;
  };
  const Library library(name);
  if (!library.opened()) {
    return lacks("there is no NVIDIA driver: libcuda.so.1 was not found; install NVIDIA's driver for CUDA " +
                 versionText(kDriverVersion) + " or newer");
  }
  int version = 0;
  if (const int result = library.call("cuDriverGetVersion", &version)) {
    return lacks(failureOf("cuDriverGetVersion", result));
  }
  if (version < kDriverVersion) {
    return lacks("NVIDIA's driver is too old: it serves CUDA " + versionText(version) +
                 ", and the plugin needs " + versionText(kDriverVersion) + "; update the driver");
  }
  const int started = library.call("cuInit", 0u);
  int count = 0;
  if (started != kNoDevice) {
    if (started) return lacks(failureOf("cuInit", started));
    if (const int result = library.call("cuDeviceGetCount", &count)) {
      return lacks(failureOf("cuDeviceGetCount", result));
    }
  }
  if (count == 0) {
    return lacks("there is no NVIDIA GPU that the driver shows; see nvidia-smi and CUDA_VISIBLE_DEVICES");
  }
  int device = 0;
  char deviceName[256] = {};
  size_t bytes = 0;
  int result = library.call("cuDeviceGet", &device, 0);
  if (!result) result = library.call("cuDeviceGetName", &deviceName[0], int{sizeof deviceName - 1}, device);
  if (!result) result = library.call("cuDeviceTotalMem_v2", &bytes, device);
  if (!result) result = library.call("cuDeviceGetAttribute", &state.major, kComputeMajor, device);
  if (!result) result = library.call("cuDeviceGetAttribute", &state.minor, kComputeMinor, device);
  if (result) return lacks(failureOf("reading the device's properties", result));
  state.device = deviceName;
  state.totalBytes = bytes;
  if (state.major < kOldestMajor) {
    return lacks(state.device + " has compute capability " + std::to_string(state.major) + "." +
                 std::to_string(state.minor) + "; the plugin needs 8.0 or newer (Ampere and later)");
  }
  return state;
}

}  // namespace flrc::gpu
