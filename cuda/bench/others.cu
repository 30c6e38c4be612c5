#include "bench/timing.h"
#include "kernels/attention.h"
#include "test/caches.h"

// Attention, at shapes of an 8B Llama. Buffers hold zeros but where that would make the work another.

namespace bench {
namespace {

using namespace flrc::gpu;
using test::Array;
using test::Device;

class Others {
 public:
  Others(Device& device, Report& report) : device_(device), report_(report) {}

  void prefillAttention(int length) {
    constexpr int kHeads = 32, kKvHeads = 8, kHeadDim = 128;
    Array<float> q(zeros<float>(int64_t{length} * kHeads * kHeadDim)),
        out(static_cast<size_t>(length * kHeads * kHeadDim));
    Array<uint16_t> keys(zeros<uint16_t>(int64_t{length} * kKvHeads * kHeadDim)),
        values(zeros<uint16_t>(int64_t{length} * kKvHeads * kHeadDim));
    const PrefillParams params{q.read(), out.global(), kHeads,        kKvHeads, kHeadDim,
                               0,        keys.read(),  values.read(), 0,        length};
    add("prefill attention, 32/8 heads of 128, " + std::to_string(length) + " positions", 0,
        2.0 * length * length * kHeads * kHeadDim, [&] { launchPrefillAttention(device_.stream(), params); });
  }

 private:
  template <typename T>
  static std::vector<T> zeros(int64_t count) {
    return std::vector<T>(static_cast<size_t>(count));
  }

  template <typename Launch>
  void add(const std::string& name, double bytes, double flops, const Launch& launchOnce) {
    constexpr int kRepeats = 5;
    const double seconds = replaySeconds(device_, [&] {
      for (int i = 0; i < kRepeats; ++i) launchOnce();
    });
    report_.add({name, 1e6 * seconds / kRepeats, bytes, flops});
  }

  Device& device_;
  Report& report_;
};

}  // namespace

void timePrefillAttention(Device& device, Report& report) {
  Others others(device, report);
  for (const int length : {512, 4096}) others.prefillAttention(length);
}

}  // namespace bench
