#include "bench/timing.h"
#include "test/step_chain.h"

// Products in one launch of kernels/step.h, each of which waits for the one before it, over
// weights that are together larger than three times the L2 cache.

namespace bench {
namespace {

using namespace flrc::gpu;
using flrc::Dtype;
using test::Device;
using test::StepChain;
using test::Values;

// As many of what `add` adds as the L2 cache has no room for, at least eight; the time of one.
template <typename Add>
Row timeChain(Device& device, const Chip& chip, Dtype dtype, const std::string& name, const Add& add) {
  StepChain chain({chip.multiprocessors, chip.sharedBytes}, std::vector<float>(4096, 1.0f), dtype, true);
  int count = 0;
  do {
    add(chain, count++);
  } while (count < 8 || chain.bytes() < 3.2 * static_cast<double>(chip.l2Bytes));
  chain.finish();
  const double seconds = replaySeconds(device, [&] { chain.enqueue(device); });
  return {name + ", " + std::to_string(count) + " in a launch", 1e6 * seconds / count, chain.bytes() / count, 0,
          1};
}

}  // namespace

void timeSteps(Device& device, Report& report, Dtype dtype) {
  if (!report.chip.hopper) return;
  const auto add = [&](const std::string& name, const auto& part) {
    static const char* const names[] = {"f32", "bf16", "int8", "int4"};
    report.add(timeChain(device, report.chip, dtype, names[static_cast<int>(dtype)] + (" " + name), part));
  };
  const bool plain = dtype == Dtype::bf16;
  // 0: dense.
  for (const int rank : plain ? std::vector{0, 2048, 1024, 512, 256} : std::vector{0, 512}) {
    const std::string of = rank > 0 ? " rank " + std::to_string(rank) : "";
    Values* last = nullptr;
    int made = 0;
    add("4096x4096" + of, [&](StepChain& chain, int index) {
      Values& y = chain.values(4096);
      made = chain.product(index == 0 ? chain.normed(y, 0) : StepChain::given(*last, 4096, made),
                           {{&y, 4096, rank}});
      last = &y;
    });
  }
  // Of Llama 3.1 8B, with norms and gates and without attention.
  for (const int rank : plain ? std::vector{0, 1024, 512, 256} : std::vector{0, 1024}) {
    const std::string of =
        rank > 0 ? ", rank " + std::to_string(rank) + " (k, v " + std::to_string(rank / 4) + ")" : "";
    Values *out = nullptr, *q = nullptr, *k = nullptr, *v = nullptr, *gated = nullptr;
    int made = 0;
    add("a layer's seven" + of, [&](StepChain& chain, int index) {
      if (index == 0) {
        out = &chain.values(4096), q = &chain.values(4096), k = &chain.values(1024), v = &chain.values(1024);
        gated = &chain.values(14336);
      }
      made =
          chain.product(chain.normed(*out, made), {{q, 4096, rank}, {k, 1024, rank / 4}, {v, 1024, rank / 4}});
      made = chain.product(StepChain::given(*q, 4096, made), {{out, 4096, rank}});
      made = chain.gatedProduct(chain.normed(*out, made), *gated, 14336, rank);
      made = chain.product(StepChain::given(*gated, 14336, made), {{out, 4096, rank}});
    });
  }
}

}  // namespace bench
