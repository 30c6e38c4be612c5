// A libcuda.so.1 and a libcublasLt.so.13 that say what the environment tells them to, for tests of what is said
// where something is missing.

#include <cstddef>
#include <cstdio>
#include <cstdlib>

namespace {

int number(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

}  // namespace

extern "C" {

size_t cublasLtGetVersion() { return static_cast<size_t>(number("FAKE_CUBLAS_VERSION", 130002)); }

int cuInit(unsigned) { return number("FAKE_CUDA_INIT", 0); }

int cuDriverGetVersion(int* version) {
  *version = number("FAKE_CUDA_VERSION", 13000);
  return 0;
}

int cuDeviceGetCount(int* count) {
  *count = number("FAKE_CUDA_DEVICES", 1);
  return 0;
}

int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return 0;
}

int cuDeviceGetName(char* name, int length, int) {
  std::snprintf(name, static_cast<size_t>(length), "Fake GPU");
  return 0;
}

int cuDeviceTotalMem_v2(size_t* bytes, int) {
  *bytes = size_t{1} << 30;
  return 0;
}

int cuDeviceGetAttribute(int* value, int attribute, int) {
  constexpr int kMajor = 75;
  *value = attribute == kMajor ? number("FAKE_CUDA_MAJOR", 9) : 0;
  return 0;
}
}
