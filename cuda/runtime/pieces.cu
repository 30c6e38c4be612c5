#include <chrono>
#include <thread>

#include "runtime/pieces.h"

namespace flrc::gpu {
namespace {

// What takes as long as an fp64 flop, by orders of magnitude: bf16 flops on tensor cores, and bytes over PCIe.
constexpr double kBf16Flops = 16;
constexpr double kFlopsPerByte = 20;

}  // namespace

Pieces::Pieces(const BackendCancel& cancel) : device_(Device::shared()), cancel_(cancel), lock_(device_.mutex) {
  checkGoesOn(cancel_);
}

Pieces::~Pieces() {
  if (!lock_.owns_lock()) lock_.lock();
  device_.queue.finish();
}

void Pieces::launched(double flops) {
  flops_ += flops;
  if (flops_ >= kFlopsPerLaunch) end();
}

void Pieces::multiplied(double flops) { launched(flops / kBf16Flops); }

void Pieces::copied(size_t bytes) { launched(kFlopsPerByte * static_cast<double>(bytes)); }

void Pieces::end() {
  device_.queue.synchronise();
  flops_ = 0;
  checkGoesOn(cancel_);
  lock_.unlock();
  // A lock that is asked for again at once goes to who had it, and others wait on.
  std::this_thread::sleep_for(std::chrono::microseconds(50));
  lock_.lock();
}

Alone::Alone(const BackendCancel& cancel) {
  static std::timed_mutex* const one = new std::timed_mutex;
  lock_ = std::unique_lock<std::timed_mutex>(*one, std::defer_lock);
  while (!lock_.try_lock_for(std::chrono::milliseconds(20))) checkGoesOn(cancel);
}

void checkRoom(const std::string& what, double bytes) {
  constexpr double kMega = 1 << 20;
  const auto free = static_cast<double>(freeBytes());
  if (bytes <= free) return;
  throw Failure(BackendCode::outOfMemory,
                what + " takes " + std::to_string(static_cast<int64_t>(bytes / kMega)) +
                    " MB on the GPU, which has " + std::to_string(static_cast<int64_t>(free / kMega)) +
                    " MB free; calibrate on the CPU (device cpu)");
}

}  // namespace flrc::gpu
