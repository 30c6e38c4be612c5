#include "bench/timing.h"
#include "kernels/attention.h"
#include "kernels/decode.h"
#include "tensor/dtype.h"
#include "test/sampling.h"

// What a decode step does besides its products, each as a chain of launches that wait for one another.

namespace bench {
namespace {

using namespace flrc::gpu;
using test::Array;
using test::Device;

class DecodeKernels {
 public:
  DecodeKernels(Device& device, Report& report) : device_(device), report_(report) {}

  void attention(int heads, int kvHeads, int headDim, int length, int columns) {
    const int64_t kvWidth = int64_t{kvHeads} * headDim, width = int64_t{heads} * headDim;
    const int chunks = attentionChunks(length, 0);
    // As many layers as the L2 cache does not hold.
    const double bytes = 4.0 * static_cast<double>(kvWidth) * length * columns;
    const int layers = 1 + static_cast<int>(2.0 * static_cast<double>(report_.chip.l2Bytes) / bytes);
    Array<uint16_t> keys(halves(kvWidth * length * layers * columns)),
        values(halves(kvWidth * length * layers * columns));
    Array<float> q(floats(width * columns)), k(floats(kvWidth * columns)), v(floats(kvWidth * columns)),
        out(static_cast<size_t>(width * columns)), angles(floats(int64_t{length} * headDim / 2)),
        partial(static_cast<size_t>(attentionFloats(columns, heads, headDim, chunks)));
    Array<uint32_t> counters(
        std::vector<uint32_t>(static_cast<size_t>(attentionCounters(columns, heads, chunks))));
    std::vector<CacheRow> places;
    for (int c = 0; c < columns; ++c) {
      const int64_t at = kvWidth * length * layers * c;
      places.push_back({keys.global() + at, values.global() + at, kvWidth * length, length - 1, 0});
    }
    Array<CacheRow> table(places);
    int layer = 0;
    add("decode attention, " + std::to_string(heads) + "/" + std::to_string(kvHeads) + " heads of " +
            std::to_string(headDim) + ", " + std::to_string(length) + " positions",
        columns, bytes, [&] {
          layer = (layer + 1) % layers;
          const RotateParams in{q.global(), k.read(),      v.read(),      nullptr, nullptr,
                                1e-5f,      angles.read(), angles.read(), heads,   kvHeads,
                                headDim,    headDim / 2,   table.read(),  layer};
          launchAttention(device_.stream(), {in, out.global(), 0, partial.global(), counters.global()}, columns,
                          length, {report_.chip.hopper, report_.chip.hopper});
        });
  }

  void norm(int width, int columns) {
    Array<float> x(floats(int64_t{width} * columns)), weight(floats(width)),
        y(static_cast<size_t>(width * columns)),
        delta(std::vector<float>(static_cast<size_t>(width * columns)));
    add("residual and norm, " + std::to_string(width), columns, 0, [&] {
      launchNorm(device_.stream(), {x.global(), delta.read(), weight.read(), y.global(), 1e-5f, width}, columns,
                 report_.chip.hopper);
    });
  }

  void gated(int width, int columns) {
    const int count = width * columns;
    Array<float> gate(floats(count)), up(floats(count)), y(static_cast<size_t>(count));
    add("silu(gate) * up, " + std::to_string(width), columns, 0, [&] {
      launchGated(device_.stream(), {gate.read(), up.read(), y.global(), count}, report_.chip.hopper);
    });
  }

  void sampling(int vocab, int columns) {
    Array<float> from(floats(int64_t{vocab} * columns)), to(static_cast<size_t>(vocab * columns));
    Array<Likeliest> likeliest(static_cast<size_t>(columns));
    Array<SampledRow> sampled(static_cast<size_t>(columns));
    test::SamplingMemory memory(vocab);
    std::vector<LikeliestParams::Row> kept;
    for (int c = 0; c < columns; ++c) {
      kept.push_back({from.read() + int64_t{vocab} * c, to.global() + int64_t{vocab} * c,
                      likeliest.global() + c, sampled.global() + c});
    }
    const std::string of = " of " + std::to_string(vocab);
    add("likeliest token" + of, columns, 0,
        [&] { launchLikeliest(device_.stream(), memory.likeliest(kept), columns, report_.chip.hopper); });
    const auto draw = [&](const std::string& name, const SamplingRow& how) {
      std::vector<SampleParams::Row> rows;
      for (int c = 0; c < columns; ++c) {
        rows.push_back({to.read() + int64_t{vocab} * c, likeliest.read() + c, sampled.global() + c, how});
      }
      add(name + of, columns, 0,
          [&] { launchSample(device_.stream(), memory.sample(rows), columns, report_.chip.multiprocessors); });
    };
    draw("draw at a temperature", {0.8f, 0, 1, 0, 1, 0});
    draw("draw with top-p", {0.8f, 0, 0.95f, 0, 1, 0});
    draw("draw with top-k and top-p", {0.8f, 40, 0.95f, 0, 1, 0});
  }

 private:
  // Some numbers from -1 to 1.
  static std::vector<float> floats(int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    uint32_t state = 1;
    for (float& value : values) {
      state = state * 1664525u + 1013904223u;
      value = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    }
    return values;
  }

  template <typename Launch>
  void add(const std::string& name, int columns, double bytes, const Launch& launchOnce) {
    constexpr int kRepeats = 64;
    const double seconds = replaySeconds(device_, [&] {
      for (int i = 0; i < kRepeats; ++i) launchOnce();
    });
    report_.add({name, 1e6 * seconds / kRepeats, bytes, 0, columns});
  }

  Device& device_;
  Report& report_;
};

}  // namespace

// Of Llama 3.2 1B, then 3.1 8B.
void timeDecodeAttention(Device& device, Report& report) {
  DecodeKernels kernels(device, report);
  for (const int length : {512, 1024, 4096}) kernels.attention(32, 8, 64, length, 1);
  kernels.attention(32, 8, 64, 640, 16);
  for (const int length : {4096, 65536}) kernels.attention(32, 8, 128, length, 1);
}

void timeNormsAndGates(Device& device, Report& report) {
  DecodeKernels kernels(device, report);
  for (const int columns : {1, 16}) {
    kernels.norm(2048, columns);
    kernels.norm(4096, columns);
    kernels.gated(8192, columns);
  }
}

void timeSampling(Device& device, Report& report) {
  DecodeKernels kernels(device, report);
  for (const int columns : {1, 16}) kernels.sampling(128256, columns);
}

}  // namespace bench
