#include <memory>

#include "bench/cublas.h"
#include "bench/timing.h"
#include "kernels/reading.h"
#include "runtime/device_limits.h"
#include "test/linear_cases.h"

// Products: each case some 200 times in one graph, over copies of its weights that are together larger than
// three times the L2 cache; and what cuBLAS takes for those of low rank.

namespace bench {
namespace {

using namespace flrc::gpu;
using test::Array;
using test::Device;

constexpr int kLaunches = 200;

// What is timed as one: launches that follow each other, of one input each.
using Chain = std::vector<test::LinearCase>;

std::string nameOf(const Chain& chain) {
  return chain.size() == 1 ? chain[0].name() : chain[0].name() + " and the layer's others";
}

bool isEnough(const Chip& chip, size_t copies, double bytes) {
  return static_cast<double>(copies) * bytes > 3.2 * static_cast<double>(chip.l2Bytes);
}

// Copies of a chain's weights, more than the L2 cache holds.
class Rotating {
 public:
  Rotating(const Chip& chip, const Chain& chain) : chain_(chain) {
    for (const test::LinearCase& one : chain) {
      x_.push_back(std::make_unique<Array<float>>(
          std::vector<float>(static_cast<size_t>(kMaxColumns * one.inputs), 1.0f)));
    }
    do {
      bytes_ = 0;
      std::vector<Stage>& copy = copies_.emplace_back();
      for (const test::LinearCase& one : chain) {
        Stage& stage = copy.emplace_back();
        stage.problem = std::make_unique<test::LinearProblem>(one, copies_.size(), test::Contents::noise);
        for (const auto& projection : one.projections) {
          stage.y.push_back(
              std::make_unique<Array<float>>(static_cast<size_t>(kMaxColumns * projection.outputs)));
        }
        bytes_ += static_cast<double>(stage.problem->weightBytes());
      }
    } while (!isEnough(chip, copies_.size(), bytes_));
  }

  Row time(Device& device, const Chip& chip, int columns, int aheadBytes) {
    const LinearsLaunch how{chip.multiprocessors, chip.sharedBytes, chip.hopper, chip.hopper ? aheadBytes : 0,
                            chip.hopper};
    const int replays = kLaunches / static_cast<int>(chain_.size());
    const double seconds = replaySeconds(device, [&] {
      for (int i = 0; i < replays; ++i) {
        std::vector<Stage>& copy = copies_[static_cast<size_t>(i) % copies_.size()];
        for (size_t stage = 0; stage < chain_.size(); ++stage) {
          copy[stage].problem->enqueue(device, *x_[stage], copy[stage].y, columns, how);
        }
      }
    });
    return {nameOf(chain_), 1e6 * seconds / replays, bytes_, 0, columns, aheadBytes};
  }

 private:
  struct Stage {
    std::unique_ptr<test::LinearProblem> problem;
    std::vector<std::unique_ptr<Array<float>>> y;
  };
  Chain chain_;
  std::vector<std::vector<Stage>> copies_;
  std::vector<std::unique_ptr<Array<float>>> x_;
  double bytes_ = 0;
};

// y = U (V x), bf16, as two calls, over copies of the same size as ours are.
class TwoCalls {
 public:
  TwoCalls(const Chip& chip, int outputs, int inputs, int rank)
      : outputs_(outputs), inputs_(inputs), rank_(rank) {
    x_ = std::make_unique<Array<uint16_t>>(halves(inputs));
    t_ = std::make_unique<Array<uint16_t>>(static_cast<size_t>(rank));
    y_ = std::make_unique<Array<uint16_t>>(static_cast<size_t>(outputs));
    do {
      copies_.push_back({std::make_unique<Array<uint16_t>>(halves(int64_t{rank} * inputs)),
                         std::make_unique<Array<uint16_t>>(halves(int64_t{rank} * outputs))});
    } while (!isEnough(chip, copies_.size(), bytes()));
  }

  // By whichever of cuBLAS's functions is the faster one.
  Row time(Device& device, Cublas& cublas) {
    Row best{};
    for (const Cublas::Call call : {Cublas::Call::gemm, Cublas::Call::gemv}) {
      const auto pair = [&](size_t i) {
        const Copy& copy = copies_[i % copies_.size()];
        cublas.multiply(call, copy.v->read(), rank_, inputs_, x_->read(), t_->global());
        cublas.multiply(call, copy.u->read(), outputs_, rank_, t_->read(), y_->global());
      };
      // What is used for the first time may not be captured.
      pair(0);
      device.synchronise();
      const double seconds = replaySeconds(device, [&] {
        for (size_t i = 0; i < kLaunches; ++i) pair(i);
      });
      const double microseconds = 1e6 * seconds / kLaunches;
      if (best.columns > 0 && best.microseconds <= microseconds) continue;
      best = {std::string("two cuBLAS calls (") + Cublas::nameOf(call) + "), bf16 " + std::to_string(outputs_) +
                  "x" + std::to_string(inputs_) + " rank " + std::to_string(rank_),
              microseconds, bytes(), 0, 1};
    }
    return best;
  }

 private:
  struct Copy {
    std::unique_ptr<Array<uint16_t>> v, u;  // [rank, inputs], [outputs, rank]
  };
  double bytes() const { return 2.0 * rank_ * (inputs_ + outputs_); }

  int outputs_, inputs_, rank_;
  std::unique_ptr<Array<uint16_t>> x_, t_, y_;
  std::vector<Copy> copies_;
};

}  // namespace

double readBandwidth(Device& device, const Chip& chip) {
  constexpr int64_t kBytes = int64_t{1} << 30;
  Array<Word4> data(static_cast<size_t>(kBytes / 16));
  Array<uint32_t> out(size_t{1});
  const ReadParams params{data.read(), kBytes / 16, out.global()};
  constexpr int kPasses = 4;
  const double seconds = replaySeconds(device, [&] {
    for (int i = 0; i < kPasses; ++i) launchRead(device.stream(), params, chip.multiprocessors);
  });
  return kPasses * static_cast<double>(kBytes) / seconds;
}

void timeLinears(Device& device, Report& report, flrc::Dtype dtype) {
  std::vector<Chain> chains;
  for (const test::LinearCase& one : test::timedLinearCases(dtype)) chains.push_back({one});
  if (dtype == flrc::Dtype::bf16) {
    for (const int rank : {256, 512, 1024}) chains.push_back(test::layerCases(rank));
  }
  for (const Chain& chain : chains) {
    Rotating weights(report.chip, chain);
    const auto add = [&](int columns, int aheadBytes) {
      report.add(weights.time(device, report.chip, columns, aheadBytes));
    };
    for (const int aheadBytes : {0, 64 * 1024, kAheadBytes}) add(1, aheadBytes);
    for (const int columns : {2, 4, 16}) add(columns, 64 * 1024);
  }
}

void timeCublas(Device& device, Report& report) {
  Cublas cublas(device);
  if (!cublas.missing().empty()) {
    std::printf("two cuBLAS calls: skipped, %s\n", cublas.missing().c_str());
    return;
  }
  for (const test::LinearCase& one : test::timedLinearCases(flrc::Dtype::bf16)) {
    const test::Projection& only = one.projections[0];
    if (only.form != test::Form::plain) continue;
    // As the engine launches it.
    const double ours = Rotating(report.chip, {one}).time(device, report.chip, 1, kAheadBytes).microseconds;
    Row row = TwoCalls(report.chip, only.outputs, one.inputs, only.active).time(device, cublas);
    row.ratio = row.microseconds / ours;
    report.add(row);
  }
}

}  // namespace bench
