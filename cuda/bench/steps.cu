#include <algorithm>
#include <cstring>
#include <memory>

#include "bench/timing.h"
#include "kernels/step.h"
#include "kernels/step_plan.h"
#include "tensor/dtype.h"

// Products of bf16 weights in one launch of kernels/step.h, each of which waits for the one before it, over
// weights that are together larger than three times the L2 cache.

namespace bench {
namespace {

using namespace flrc::gpu;
using test::Array;
using test::Device;
using Values = Array<uint64_t>;

// A step of products alone, dense or in plain factors.
class Chain {
 public:
  Chain(const Chip& chip, int hidden)
      : chip_(chip),
        plan_(chip.multiprocessors),
        hidden_(hidden),
        ones_(std::vector<float>(static_cast<size_t>(hidden), 1.0f)) {}

  double bytes() const { return bytes_; }

  Values& values(int width) {
    widest_ = std::max(widest_, width);
    values_.push_back(std::make_unique<Values>(std::vector<uint64_t>(static_cast<size_t>(width))));
    return *values_.back();
  }

  // Inputs: the residual stream with what exchange `made` adds to it (0: nothing), and values as they are.
  StepJob normed(Values& added, int made) {
    StepJob job = given(added, hidden_, made);
    job.source = StepSource::normed;
    if (made == 0) job.from = nullptr;
    job.norm = ones_.read();
    return job;
  }
  static StepJob given(Values& from, int width, int made) {
    StepJob job{};
    job.width = width;
    job.wants = made;
    job.from = from.read();
    return job;
  }

  struct Output {
    Values* y;
    int width, rank;  // 0: dense
  };
  // Projections of one input; returns the exchange of their outputs.
  int product(StepJob with, const std::vector<Output>& outputs) {
    with.input = plan_.newInput();
    const int t = plan_.newExchange(), made = plan_.newExchange();
    StepPlan::Stage rows, panels;
    for (const auto& [y, width, rank] : outputs) {
      StepPlan::Part last = lastOf(with, width, rank, t, rows);
      last.job.y = y->global();
      last.job.sends.y = made;
      (rank > 0 ? panels : rows).add(last);
    }
    plan_.put(rows);
    plan_.put(panels);
    return made;
  }

  // silu of the one, times the other.
  int gatedProduct(StepJob with, Values& y, int width, int rank) {
    with.input = plan_.newInput();
    StepJob job{};
    job.wants = plan_.newExchange();
    job.sends.y = plan_.newExchange();
    StepPlan::Stage rows, panels;
    const StepPlan::Part gate = lastOf(with, width, rank, job.wants, rows),
                         up = lastOf(with, width, rank, job.wants, rows);
    StepGather gather{};
    gather.y = y.global();
    gather.products = 2;
    gather.gates = gather.gated = 1;
    panels.add({gate, up}, {nullptr, nullptr}, width, job, gather);
    plan_.put(rows);
    plan_.put(panels);
    return job.sends.y;
  }

  double seconds(Device& device) {
    Array<StepJob> jobs(plan_.jobs());
    Array<StepLines> lines(plan_.lines());
    Array<int32_t> shares(plan_.shares());
    Array<CacheRow> row(std::vector<CacheRow>(1));
    Array<uint32_t> epochs(std::vector<uint32_t>(static_cast<size_t>(chip_.multiprocessors)));
    StepParams params{};
    std::vector<StepGather> gathers = plan_.gathers();
    Array<int32_t> gatherShares(plan_.gatherShares());
    for (size_t i = 0; i < gathers.size(); ++i) {
      gathers[i].shares = gatherShares.read() + static_cast<int64_t>(i) * (chip_.multiprocessors + 1);
    }
    Array<StepGather> gathered(gathers);
    params.gathers = gathered.read();
    params.gathered = plan_.gathered();
    params.jobs = jobs.read();
    params.lines = lines.read();
    params.shares = shares.read();
    params.attention.of.heads.rows = row.read();
    params.jobCount = static_cast<int32_t>(plan_.jobs().size());
    params.lineCount = static_cast<int32_t>(plan_.lines().size());
    params.exchanges = plan_.exchanges();
    params.x = ones_.read();
    params.hidden = hidden_;
    params.headDim = 64;
    params.eps = 1e-5f;
    params.epochs = epochs.global();
    return replaySeconds(device, [&] {
      launchStep(device.stream(), params, widest_, {chip_.multiprocessors, chip_.sharedBytes, false});
    });
  }

 private:
  // The product that makes a projection's outputs; what makes its t goes to `rows`.
  StepPlan::Part lastOf(const StepJob& with, int width, int rank, int t, StepPlan::Stage& rows) {
    if (rank == 0) return {with, weights(width, with.width), with.width, with.width, width};
    Values& between = values(rank);
    StepJob first = with;
    first.t = between.global();
    first.sends.t = t;
    rows.add({first, weights(rank, with.width), with.width, with.width, rank});
    StepJob last = given(between, rank, t);
    last.input = plan_.newInput();
    return {last, weights(width, rank), rank, rank, width};
  }

  // Some hundredth, of either sign: sums stay finite.
  Global<const uint8_t> weights(int count, int width) {
    std::vector<uint8_t> bytes(static_cast<size_t>(count * stripsOf(flrc::Dtype::bf16, width) * kStripBytes));
    uint64_t state = 2 * weights_.size() + 1;
    for (size_t i = 0; i < bytes.size(); i += 8) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const uint64_t bits = ((state ^ state >> 29) & 0x807f807f807f807fu) | 0x3c003c003c003c00u;
      std::memcpy(bytes.data() + i, &bits, 8);
    }
    bytes_ += static_cast<double>(bytes.size());
    weights_.push_back(std::make_unique<Array<uint8_t>>(bytes));
    return weights_.back()->read();
  }

  const Chip& chip_;
  StepPlan plan_;
  int hidden_, widest_ = 1;
  double bytes_ = 0;
  Array<float> ones_;
  std::vector<std::unique_ptr<Values>> values_;
  std::vector<std::unique_ptr<Array<uint8_t>>> weights_;
};

// As many of what `add` adds as the L2 cache has no room for, at least eight; the time of one.
template <typename Add>
Row timeChain(Device& device, const Chip& chip, const std::string& name, const Add& add) {
  Chain chain(chip, 4096);
  int count = 0;
  do {
    add(chain, count++);
  } while (count < 8 || chain.bytes() < 3.2 * static_cast<double>(chip.l2Bytes));
  const double seconds = chain.seconds(device);
  return {name + ", " + std::to_string(count) + " in a launch", 1e6 * seconds / count, chain.bytes() / count, 0,
          1};
}

}  // namespace

void timeSteps(Device& device, const Chip& chip, std::vector<Row>& rows) {
  if (!chip.hopper) return;
  const auto add = [&](const std::string& name, const auto& part) {
    rows.push_back(timeChain(device, chip, name, part));
    print(rows.back(), chip);
  };
  for (const int rank : {0, 2048, 1024, 512, 256}) {
    const std::string of = rank > 0 ? " rank " + std::to_string(rank) : "";
    Values* last = nullptr;
    int made = 0;
    add("bf16 4096x4096" + of, [&](Chain& chain, int index) {
      Values& y = chain.values(4096);
      made =
          chain.product(index == 0 ? chain.normed(y, 0) : Chain::given(*last, 4096, made), {{&y, 4096, rank}});
      last = &y;
    });
  }
  // Of Llama 3.1 8B, with norms and gates and without attention.
  for (const int rank : {0, 1024, 512, 256}) {
    const std::string of =
        rank > 0 ? ", rank " + std::to_string(rank) + " (k, v " + std::to_string(rank / 4) + ")" : "";
    Values *out = nullptr, *q = nullptr, *k = nullptr, *v = nullptr, *gated = nullptr;
    int made = 0;
    add("a layer's seven" + of, [&](Chain& chain, int index) {
      if (index == 0) {
        out = &chain.values(4096), q = &chain.values(4096), k = &chain.values(1024), v = &chain.values(1024);
        gated = &chain.values(14336);
      }
      made =
          chain.product(chain.normed(*out, made), {{q, 4096, rank}, {k, 1024, rank / 4}, {v, 1024, rank / 4}});
      made = chain.product(Chain::given(*q, 4096, made), {{out, 4096, rank}});
      made = chain.gatedProduct(chain.normed(*out, made), *gated, 14336, rank);
      made = chain.product(Chain::given(*gated, 14336, made), {{out, 4096, rank}});
    });
  }
}

}  // namespace bench
