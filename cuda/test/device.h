#pragma once

// Device memory and a stream for tests and benchmarks, on a GPU or on the emulator.

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/device.cuh"

namespace test {

// The numbers of multiprocessors with warpgroup products to test with; none where the chip has no such
// products.
#ifdef __CUDACC__

inline std::vector<int> warpgroupCounts() {
  int major = 0, minor = 0;
  flrc::gpu::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  flrc::gpu::check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
  return major == 9 && minor == 0 ? std::vector<int>{2, 100} : std::vector<int>{};
}

class Device {
 public:
  explicit Device(uint64_t = 0) { flrc::gpu::check(cudaStreamCreate(&stream_)); }
  ~Device() { cudaStreamDestroy(stream_); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  flrc::gpu::Stream stream() { return stream_; }
  void synchronise() { flrc::gpu::check(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_;
};

// `count` values on the device.
template <typename T>
class Array {
 public:
  explicit Array(size_t count) : count_(count) {
    flrc::gpu::check(cudaMalloc(&data_, count * sizeof(T) + 16));
    flrc::gpu::check(cudaMemset(data_, 0xfe, count * sizeof(T) + 16));
  }
  explicit Array(const std::vector<T>& values) : Array(values.size()) {
    flrc::gpu::check(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~Array() { cudaFree(data_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  T* global() { return data_; }
  const T* read() const { return data_; }
  T at(size_t index) const {
    T value;
    flrc::gpu::check(cudaMemcpy(&value, data_ + index, sizeof(T), cudaMemcpyDeviceToHost));
    return value;
  }
  std::vector<T> download() const {
    std::vector<T> values(count_);
    flrc::gpu::check(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  size_t count_;
  T* data_ = nullptr;
};

#else

inline std::vector<int> warpgroupCounts() { return {2, 7}; }

class Device {
 public:
  explicit Device(uint64_t seed = 0) : machine_(seed) {}
  flrc::gpu::Stream stream() { return machine_; }
  void synchronise() { machine_.synchronise(); }
  flrc::emulator::Machine& machine() { return machine_; }

 private:
  flrc::emulator::Machine machine_;
};

// `count` values on the device; poisoned, or the host's. What is only read() is not watched for races.
template <typename T>
class Array {
 public:
  explicit Array(size_t count)
      : count_(count), memory_("array", count * sizeof(T), sizeof(T) < 4 ? sizeof(T) : 4, false) {}
  explicit Array(const std::vector<T>& values) : Array(values.size()) {
    memory_.fillFromHost(values.data(), values.size() * sizeof(T));
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  flrc::gpu::Global<T> global() {
    memory_.track();
    return {&memory_, memory_.begin()};
  }
  flrc::gpu::Global<const T> read() { return {&memory_, memory_.begin()}; }
  T at(size_t index) const { return reinterpret_cast<const T*>(memory_.begin())[index]; }
  std::vector<T> download() const {
    const T* first = reinterpret_cast<const T*>(memory_.begin());
    return {first, first + count_};
  }

 private:
  size_t count_;
  flrc::emulator::Memory memory_;
};

#endif

}  // namespace test
