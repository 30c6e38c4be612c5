#pragma once

// Steps of products alone (kernels/step.h), dense or in plain factors of bf16 weights: what tests check against
// fp64 and benchmarks time.

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/step.h"
#include "kernels/step_plan.h"
#include "tensor/dtype.h"
#include "test/device.h"

namespace test {

// Tagged values.
using Values = Array<uint64_t>;

class StepChain {
 public:
  StepChain(const flrc::gpu::StepLaunch& how, const std::vector<float>& x)
      : how_(how),
        plan_(how.blocks),
        hidden_(static_cast<int>(x.size())),
        x_(x),
        ones_(std::vector<float>(x.size(), 1.0f)) {}

  double bytes() const { return bytes_; }

  Values& values(int width) {
    widest_ = std::max(widest_, width);
    // Whole octets.
    values_.push_back(
        std::make_unique<Values>(std::vector<uint64_t>(static_cast<size_t>((width + 7) / 8 * 8))));
    return *values_.back();
  }

  // Inputs: the residual stream with what exchange `made` adds to it (0: nothing), and values as they are.
  flrc::gpu::StepJob normed(Values& added, int made) {
    flrc::gpu::StepJob job = given(added, hidden_, made);
    job.source = flrc::gpu::StepSource::normed;
    if (made == 0) job.from = nullptr;
    job.norm = ones_.read();
    return job;
  }
  static flrc::gpu::StepJob given(Values& from, int width, int made) {
    flrc::gpu::StepJob job{};
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
  int product(flrc::gpu::StepJob with, const std::vector<Output>& outputs) {
    with.input = plan_.newInput();
    const int t = plan_.newExchange(), made = plan_.newExchange();
    flrc::gpu::StepPlan::Stage rows, panels;
    for (const auto& [y, width, rank] : outputs) {
      flrc::gpu::StepPlan::Part last = lastOf(with, width, rank, t, rows);
      last.job.y = y->global();
      last.job.sends.y = made;
      (rank > 0 ? panels : rows).add(last);
    }
    plan_.put(rows);
    plan_.put(panels);
    return made;
  }

  // silu of the one, times the other.
  int gatedProduct(flrc::gpu::StepJob with, Values& y, int width, int rank) {
    with.input = plan_.newInput();
    flrc::gpu::StepJob job{};
    job.wants = plan_.newExchange();
    job.sends.y = plan_.newExchange();
    flrc::gpu::StepPlan::Stage rows, panels;
    const flrc::gpu::StepPlan::Part gate = lastOf(with, width, rank, job.wants, rows),
                                    up = lastOf(with, width, rank, job.wants, rows);
    job.y = y.global();
    job.products = 2;
    job.gates = job.gated = 1;
    panels.gather({gate, up}, width, job);
    plan_.put(rows);
    plan_.put(panels);
    return job.sends.y;
  }

  // Once all products are there.
  void finish() {
    jobs_ = std::make_unique<Array<flrc::gpu::StepJob>>(plan_.jobs());
    lines_ = std::make_unique<Array<flrc::gpu::StepLines>>(plan_.lines());
    firstJobs_ = std::make_unique<Array<int32_t>>(plan_.firstJobs());
    firstLines_ = std::make_unique<Array<int32_t>>(plan_.firstLines());
    row_ = std::make_unique<Array<flrc::gpu::CacheRow>>(std::vector<flrc::gpu::CacheRow>(1));
    epochs_ = std::make_unique<Array<uint32_t>>(std::vector<uint32_t>(static_cast<size_t>(how_.blocks)));
    params_.jobs = jobs_->read();
    params_.lines = lines_->read();
    params_.firstJobs = firstJobs_->read();
    params_.firstLines = firstLines_->read();
    params_.gathered = plan_.gathered();
    params_.attention.of.heads.rows = row_->read();
    params_.exchanges = plan_.exchanges();
    params_.x = x_.read();
    params_.hidden = hidden_;
    params_.headDim = 64;
    params_.eps = 1e-5f;
    params_.epochs = epochs_->global();
  }
  void enqueue(Device& device) { flrc::gpu::launchStep(device.stream(), params_, widest_, how_); }

  // A matrix of the chain, in the order in which they were made (of factors V, U; gate before up), and the
  // values that it makes, where they are sent.
  struct Matrix {
    int outputs, inputs;
    std::vector<uint16_t> bits;  // [outputs][whole strips]
    std::unique_ptr<Array<uint8_t>> device;
    Values* t = nullptr;
  };
  const Matrix& matrix(size_t index) const { return matrices_[index]; }

 private:
  // The product that makes a projection's outputs; what makes its t goes to `rows`.
  flrc::gpu::StepPlan::Part lastOf(const flrc::gpu::StepJob& with, int width, int rank, int t,
                                   flrc::gpu::StepPlan::Stage& rows) {
    if (rank == 0) return {with, weights(width, with.width), with.width, with.width, width};
    Values& between = values(rank);
    flrc::gpu::StepJob first = with;
    first.t = between.global();
    first.sends.t = t;
    rows.add({first, weights(rank, with.width), with.width, with.width, rank});
    matrices_.back().t = &between;
    flrc::gpu::StepJob last = given(between, rank, t);
    last.input = plan_.newInput();
    return {last, weights(width, rank), rank, rank, width};
  }

  // Some hundredth, of either sign: sums stay finite.
  flrc::gpu::Global<const uint8_t> weights(int outputs, int inputs) {
    const int64_t strips = flrc::gpu::stripsOf(flrc::Dtype::bf16, inputs);
    Matrix matrix{outputs, inputs, {}, nullptr};
    std::vector<uint8_t> bytes(static_cast<size_t>(outputs * strips * flrc::gpu::kStripBytes));
    uint64_t state = 2 * matrices_.size() + 1;
    for (size_t i = 0; i < bytes.size(); i += 8) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const uint64_t bits = ((state ^ state >> 29) & 0x807f807f807f807fu) | 0x3c003c003c003c00u;
      std::memcpy(bytes.data() + i, &bits, 8);
    }
    matrix.bits.resize(bytes.size() / 2);
    std::memcpy(matrix.bits.data(), bytes.data(), bytes.size());
    bytes_ += static_cast<double>(bytes.size());
    matrix.device = std::make_unique<Array<uint8_t>>(bytes);
    matrices_.push_back(std::move(matrix));
    return matrices_.back().device->read();
  }

  const flrc::gpu::StepLaunch how_;
  flrc::gpu::StepPlan plan_;
  int hidden_, widest_ = 1;
  double bytes_ = 0;
  Array<float> x_, ones_;
  std::vector<std::unique_ptr<Values>> values_;
  std::vector<Matrix> matrices_;
  flrc::gpu::StepParams params_{};
  std::unique_ptr<Array<flrc::gpu::StepJob>> jobs_;
  std::unique_ptr<Array<flrc::gpu::StepLines>> lines_;
  std::unique_ptr<Array<int32_t>> firstJobs_, firstLines_;
  std::unique_ptr<Array<flrc::gpu::CacheRow>> row_;
  std::unique_ptr<Array<uint32_t>> epochs_;
};

}  // namespace test
