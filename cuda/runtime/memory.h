#pragma once

// Device memory and the queue of its launches, on a GPU or (built by g++) on the emulator.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/device.cuh"
#include "runtime/failure.h"

namespace flrc::gpu {

template <typename T>
class Buffer;

// A buffer's bytes as values of another type.
template <typename U, typename T>
Global<const U> viewAs(const Buffer<T>& buffer) {
  return pointerCast<const U>(buffer.read());
}

// Where in a buffer something begins.
template <typename T>
struct Place {
  const Buffer<T>& buffer;
  size_t first = 0;
};

// What is left of the device's memory by who could do without more of it: for caches, for what is small and
// comes later, and for what CUDA itself takes.
inline constexpr uint64_t kSpareBytes = 256 << 20;

#ifdef __CUDACC__

// Has the calling thread use the device that driver.h describes. One that chooses none may get another, where
// that one is for one process at a time and busy.
inline void useFirstDevice() { check(cudaSetDevice(0)); }

// Whether it still computes: after a fault it does nothing more for the process.
inline bool deviceAnswers() { return cudaDeviceSynchronize() == cudaSuccess; }

// Of the device, for new buffers.
inline uint64_t freeBytes() {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total));
  return free;
}

// What an allocation of `bytes` came to. `whose`: "the GPU".
inline void checkAllocated(cudaError_t status, size_t bytes, const std::string& whose,
                           const std::string& remedy) {
  if (status != cudaErrorMemoryAllocation) return check(status);
  (void)cudaGetLastError();
  throw Failure(BackendCode::outOfMemory,
                whose + " has no " + std::to_string((bytes + (1 << 20) - 1) >> 20) + " MB left; " + remedy);
}

// `count` values on the device; what they are is up to whoever writes them first.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count) : count_(count) {
    if (count == 0) return;
    checkAllocated(cudaMalloc(&data_, bytes()), bytes(), "the GPU", "use a smaller dtype");
  }
  Buffer(const T* host, size_t count) : Buffer(count) {
    if (count == 0) return;
    check(cudaMemcpy(data_, host, count * sizeof(T), cudaMemcpyHostToDevice));
    // What comes from pageable memory may still be on its way, and queues do not wait for the default stream.
    check(cudaStreamSynchronize(cudaStreamLegacy));
  }
  Buffer(Buffer&& other) noexcept
      : count_(std::exchange(other.count_, 0)), data_(std::exchange(other.data_, nullptr)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(count_, other.count_);
    std::swap(data_, other.data_);
    return *this;
  }
  // Whoever frees it has waited for what uses it: cudaFree promises no more than that it may.
  ~Buffer() { cudaFree(data_); }

  size_t count() const { return count_; }
  size_t bytes() const { return count_ * sizeof(T); }
  Global<T> global() const { return data_; }
  Global<const T> read() const { return data_; }

 private:
  size_t count_ = 0;
  T* data_ = nullptr;
};

// `count` values in the host's memory that kernels read and write in place. The host may touch them when the
// queue is idle.
template <typename T>
class HostBuffer {
 public:
  HostBuffer() = default;
  explicit HostBuffer(size_t count) : count_(count) {
    if (count == 0) return;
    checkAllocated(cudaHostAlloc(&data_, bytes(), cudaHostAllocMapped), bytes(),
                   "the host, of memory that the GPU reads in place,", "close other programs");
  }
  HostBuffer(HostBuffer&& other) noexcept
      : count_(std::exchange(other.count_, 0)), data_(std::exchange(other.data_, nullptr)) {}
  HostBuffer& operator=(HostBuffer&& other) noexcept {
    std::swap(count_, other.count_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~HostBuffer() { cudaFreeHost(data_); }

  size_t bytes() const { return count_ * sizeof(T); }
  const T& at(size_t index) const { return data_[index]; }
  // For copies to the device and from it.
  T* data() const { return data_; }
  // The first `count` values.
  void write(const T* from, size_t count) { std::copy_n(from, count, data_); }
  // With unified addressing, which all chips that FLRC runs on have, the device's address is the host's.
  Global<T> global() const { return data_; }
  Global<const T> read() const { return data_; }

 private:
  size_t count_ = 0;
  T* data_ = nullptr;
};

// One stream. What is enqueued runs in order; a failure shows at synchronise() or at a copy.
class Queue {
 public:
  Queue() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  ~Queue() { cudaStreamDestroy(stream_); }

  // For whoever enqueues something.
  Stream stream() {
    idle_ = false;
    return stream_;
  }
  void synchronise() {
    if (idle_) return;
    check(cudaStreamSynchronize(stream_));
    idle_ = true;
  }
  // Before what it uses is freed. A failure shows where something comes next.
  void finish() noexcept { cudaStreamSynchronize(stream_); }

  // The least time that what is enqueued takes, of a few.
  double seconds(const std::function<void()>& enqueue) {
    cudaEvent_t begin = nullptr, end = nullptr;
    check(cudaEventCreate(&begin));
    check(cudaEventCreate(&end));
    float least = HUGE_VALF;
    for (int i = 0; i < 3; ++i) {
      check(cudaEventRecord(begin, stream()));
      enqueue();
      check(cudaEventRecord(end, stream()));
      check(cudaEventSynchronize(end));
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, begin, end));
      least = std::min(least, milliseconds);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return least / 1e3;
  }

  // All of `to`, from host memory that may go at once.
  template <typename T>
  void upload(Buffer<T>& to, const T* from) {
    upload(to, 0, from, to.count());
    synchronise();
  }
  // `count` values from `first` on, out of host memory that stays until the queue has been waited for.
  template <typename T>
  void upload(Buffer<T>& to, size_t first, const T* from, size_t count) {
    check(cudaMemcpyAsync(to.global() + first, from, count * sizeof(T), cudaMemcpyHostToDevice, stream()));
  }
  template <typename T>
  void clear(Buffer<T>& buffer) {
    check(cudaMemsetAsync(buffer.global(), 0, buffer.bytes(), stream()));
  }
  // `count` values from `first` on; what was enqueued before is done first.
  template <typename T>
  void download(const Buffer<T>& from, size_t first, size_t count, T* to) {
    check(cudaMemcpyAsync(to, from.read() + first, count * sizeof(T), cudaMemcpyDeviceToHost, stream()));
    synchronise();
  }
  // `count` values of each of `parts`, which lie `fromPart` and `toPart` values apart, the first ones at `from`
  // and `to`.
  template <typename T>
  void move(const Place<T>& from, size_t fromPart, const Place<T>& to, size_t toPart, size_t count,
            size_t parts = 1) {
    for (size_t p = 0; p < parts; ++p) {
      check(cudaMemcpyAsync(to.buffer.global() + to.first + p * toPart,
                            from.buffer.read() + from.first + p * fromPart, count * sizeof(T),
                            cudaMemcpyDeviceToDevice, stream()));
    }
  }

 private:
  cudaStream_t stream_ = nullptr;
  bool idle_ = true;
};

// Launches recorded once and replayed as one.
class Graph {
 public:
  // What `enqueue` puts into the queue.
  Graph(Queue& queue, const std::function<void()>& enqueue) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(queue.stream(), cudaStreamCaptureModeThreadLocal));
    try {
      enqueue();
    } catch (...) {
      cudaStreamEndCapture(queue.stream(), &graph);
      if (graph) cudaGraphDestroy(graph);
      throw;
    }
    check(cudaStreamEndCapture(queue.stream(), &graph));
    const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check(status);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() { cudaGraphExecDestroy(graph_); }

  void replay(Queue& queue) { check(cudaGraphLaunch(graph_, queue.stream())); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

#else

inline void useFirstDevice() {}
inline bool deviceAnswers() { return true; }

// The emulated device's memory, less what buffers have of it.
inline std::atomic<uint64_t> emulatedFree = uint64_t{1} << 33;
inline uint64_t freeBytes() { return emulatedFree; }

template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count) : count_(count), memory_(allocate(count)) {}
  Buffer(const T* host, size_t count) : Buffer(count) {
    if (count > 0) memory_->fillFromHost(host, bytes());
  }

  size_t count() const { return count_; }
  size_t bytes() const { return count_ * sizeof(T); }
  Global<T> global() const {
    if (!memory_) return nullptr;
    memory_->track();
    return {memory_.get(), memory_->begin()};
  }
  // Not watched for races, unless global() was taken as well.
  Global<const T> read() const {
    if (!memory_) return nullptr;
    return {memory_.get(), memory_->begin()};
  }
  emulator::Memory* memory() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(emulator::Memory* memory) const {
      emulatedFree += memory->size();
      delete memory;
    }
  };
  using Owned = std::unique_ptr<emulator::Memory, Free>;

  static Owned allocate(size_t count) {
    if (count == 0) return nullptr;
    Owned memory(new emulator::Memory("buffer", count * sizeof(T), std::min<size_t>(4, sizeof(T)), false));
    emulatedFree -= memory->size();
    return memory;
  }

  size_t count_ = 0;
  Owned memory_;
};

template <typename T>
class HostBuffer {
 public:
  HostBuffer() = default;
  explicit HostBuffer(size_t count) : buffer_(count), values_(count) {}

  size_t bytes() const { return buffer_.bytes(); }
  const T& at(size_t index) const { return data()[index]; }
  T* data() const { return reinterpret_cast<T*>(buffer_.memory()->begin()); }
  void write(const T* from, size_t count) {
    std::copy_n(from, count, values_.begin());
    buffer_.memory()->fillFromHost(values_.data(), buffer_.bytes());
  }
  Global<T> global() const { return buffer_.global(); }
  Global<const T> read() const { return buffer_.read(); }

 private:
  Buffer<T> buffer_;
  std::vector<T> values_;
};

// Runs what is enqueued at the next synchronise(), which copies imply.
class Queue {
 public:
  Stream stream() { return machine_; }
  void synchronise() { machine_.synchronise(); }
  void finish() noexcept { synchronise(); }
  // The emulator has no clock.
  double seconds(const std::function<void()>&) { return 0; }

  template <typename T>
  void upload(Buffer<T>& to, const T* from) {
    synchronise();
    to.memory()->fillFromHost(from, to.bytes());
  }
  template <typename T>
  void upload(Buffer<T>& to, size_t first, const T* from, size_t count) {
    synchronise();
    std::vector<T> all = contents(to);
    std::copy_n(from, count, all.begin() + static_cast<std::ptrdiff_t>(first));
    upload(to, all.data());
  }
  template <typename T>
  void clear(Buffer<T>& buffer) {
    upload(buffer, std::vector<T>(buffer.count()).data());
  }
  template <typename T>
  void download(const Buffer<T>& from, size_t first, size_t count, T* to) {
    synchronise();
    std::memcpy(to, from.memory()->begin() + first * sizeof(T), count * sizeof(T));
  }
  template <typename T>
  void move(const Place<T>& from, size_t fromPart, const Place<T>& to, size_t toPart, size_t count,
            size_t parts = 1) {
    synchronise();
    std::vector<T> all = contents(to.buffer);
    const auto* values = reinterpret_cast<const T*>(from.buffer.memory()->begin()) + from.first;
    for (size_t p = 0; p < parts; ++p) {
      std::copy_n(values + p * fromPart, count,
                  all.begin() + static_cast<std::ptrdiff_t>(to.first + p * toPart));
    }
    to.buffer.memory()->fillFromHost(all.data(), to.buffer.bytes());
  }

 private:
  template <typename T>
  static std::vector<T> contents(const Buffer<T>& buffer) {
    const auto* begin = reinterpret_cast<const T*>(buffer.memory()->begin());
    return {begin, begin + buffer.count()};
  }

  emulator::Machine machine_{1};
};

class Graph {
 public:
  // Recorded by being run: the emulator's launches are enqueued anew at each replay.
  Graph(Queue&, std::function<void()> enqueue) : enqueue_(std::move(enqueue)) {}

  void replay(Queue&) { enqueue_(); }

 private:
  std::function<void()> enqueue_;
};

#endif

}  // namespace flrc::gpu
