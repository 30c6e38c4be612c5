#pragma once

#include <algorithm>
#include <mutex>
#include <string>

#include "kernels/pace.h"
#include "runtime/model.h"

namespace flrc::gpu {

// Long work on the queue of all models, in pieces of some milliseconds, between which it may be cancelled and
// others have their turn. Holds the queue otherwise. What its launches use must outlive it.
class Pieces {
 public:
  explicit Pieces(const BackendCancel& cancel);
  // Waits for what was enqueued.
  ~Pieces();
  Pieces(const Pieces&) = delete;
  Pieces& operator=(const Pieces&) = delete;

  Stream stream() { return device_.queue.stream(); }
  // After launches of so many fp64 flops, or of so many on bf16 tensor cores: ends the piece when it is large
  // enough.
  void launched(double flops);
  void multiplied(double flops);
  Pace pace() {
    return [this](double flops) { launched(flops); };
  }
  // launch(first, count) for ranges of `all` items, each of which takes so many flops on bf16 tensor cores: of
  // as many whole tiles of items as one launch may take, the last with the rest.
  template <typename Launch>
  void multiplyEach(int64_t all, int64_t tile, double flops, const Launch& launch) {
    const auto tiles = static_cast<int64_t>(kTensorFlopsPerLaunch / (flops * static_cast<double>(tile)));
    const int64_t most = std::max<int64_t>(1, tiles) * tile;
    for (int64_t first = 0; first < all; first += most) {
      const int64_t count = std::min(most, all - first);
      launch(first, count);
      multiplied(flops * static_cast<double>(count));
    }
  }
  // Waits for all of it; `end` gives others their turn, or throws where that was cancelled.
  void end();
  void finish() noexcept { device_.queue.finish(); }
  // As end(); others have their turn while `body` runs on the host.
  template <typename Body>
  void aside(const Body& body) {
    device_.queue.synchronise();
    flops_ = 0;
    lock_.unlock();
    body();
    checkGoesOn(cancel_);
    lock_.lock();
  }

  // `count` values to or from `first` on in a buffer, a stretch a piece. What comes down is there on return.
  template <typename T>
  void upload(Buffer<T>& to, size_t first, const T* from, size_t count) {
    forStretches(count * sizeof(T), [&](size_t at, size_t bytes) {
      device_.queue.upload(to, first + at / sizeof(T), from + at / sizeof(T), bytes / sizeof(T));
    });
  }
  template <typename T>
  void download(const Buffer<T>& from, size_t first, T* to, size_t count) {
    forStretches(count * sizeof(T), [&](size_t at, size_t bytes) {
      device_.queue.download(from, first + at / sizeof(T), bytes / sizeof(T), to + at / sizeof(T));
    });
  }
  template <typename T>
  void clear(Buffer<T>& buffer) {
    device_.queue.clear(buffer);
  }
  // Makes room for `count` values at least; those that there are get lost.
  template <typename T>
  void grow(Buffer<T>& buffer, size_t count) {
    if (buffer.count() >= count) return;
    // The old ones may be in use.
    device_.queue.synchronise();
    buffer = {};
    buffer = Buffer<T>(count);
  }

 private:
  template <typename Body>
  void forStretches(size_t bytes, const Body& body) {
    // A multiple of every value's size; some ms over PCIe.
    constexpr size_t kStretch = size_t{1} << 25;
    for (size_t at = 0; at < bytes; at += kStretch) {
      const size_t some = std::min(kStretch, bytes - at);
      body(at, some);
      copied(some);
    }
  }
  void copied(size_t bytes);

  Device& device_;
  const BackendCancel& cancel_;
  std::unique_lock<std::mutex> lock_;
  double flops_ = 0;
};

// One at a time of what takes much of the device's memory, so that it is that of one. Aborted while it waits.
class Alone {
 public:
  explicit Alone(const BackendCancel& cancel);

 private:
  std::unique_lock<std::timed_mutex> lock_;
};

// Refuses what needs more memory than is free, before any of it is taken: "`what` takes ...".
void checkRoom(const std::string& what, double bytes);

}  // namespace flrc::gpu
