#pragma once

// Steps of products alone (kernels/step.h), dense or in plain factors: what tests check against
// fp64 and benchmarks time.

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/step.h"
#include "kernels/step_plan.h"
#include "tensor/matrix.h"
#include "test/device.h"
#include "test/noise.h"

namespace test {

// Tagged values.
using Values = Array<uint64_t>;

class StepChain {
 public:
  // `alike`: matrices of one shape have the same weights, so that many are soon made.
  StepChain(const flrc::gpu::StepLaunch& how, const std::vector<float>& x, flrc::Dtype dtype,
            bool alike = false)
      : how_(how),
        dtype_(dtype),
        alike_(alike),
        plan_(how.blocks),
        hidden_(static_cast<int>(x.size())),
        words_(flrc::gpu::stepInputWords(hidden_)),
        x_(x),
        ones_(std::vector<float>(x.size(), 1.0f)) {}

  double bytes() const { return bytes_; }

  Values& values(int width) {
    words_ = std::max(words_, flrc::gpu::stepInputWords(width));
    // Whole octets.
    values_.push_back(
        std::make_unique<Values>(std::vector<uint64_t>(static_cast<size_t>(flrc::gpu::wholeOctets(width)))));
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
  void enqueue(Device& device) { flrc::gpu::launchStep(device.stream(), params_, words_, how_); }

  // Weights on the host, and as they lie on the device.
  struct Weights {
    flrc::RowMatrix rows;  // or
    flrc::PanelMatrix panels;
    std::vector<uint8_t> data, zero;
    std::vector<uint16_t> scale;
  };
  // A matrix of the chain, in the order in which they were made (of factors V, U; gate before up), and the
  // values that it makes, where they are sent.
  struct Matrix {
    int outputs, inputs;
    std::shared_ptr<const Weights> host;
    std::unique_ptr<Array<uint8_t>> data, zero;
    std::unique_ptr<Array<uint16_t>> scale;
    Values* t = nullptr;

    // [outputs][inputs]
    std::vector<float> weights() const {
      std::vector<float> all(static_cast<size_t>(outputs * inputs)), rank(static_cast<size_t>(outputs));
      for (int o = 0; o < host->rows.rows; ++o) flrc::getRow(host->rows, o, all.data() + o * inputs);
      for (int j = 0; j < host->panels.rank; ++j) {
        flrc::getRank(host->panels, j, rank.data());
        for (int o = 0; o < outputs; ++o)
          all[static_cast<size_t>(o * inputs + j)] = rank[static_cast<size_t>(o)];
      }
      return all;
    }
  };
  const Matrix& matrix(size_t index) const { return matrices_[index]; }

 private:
  // The product that makes a projection's outputs; what makes its t goes to `rows`.
  flrc::gpu::StepPlan::Part lastOf(const flrc::gpu::StepJob& with, int width, int rank, int t,
                                   flrc::gpu::StepPlan::Stage& rows) {
    if (rank == 0) return {with, rowsOf(width, with.width), with.width, width};
    Values& between = values(rank);
    words_ = std::max(words_, flrc::gpu::stepUnitWords(dtype_, rank));
    flrc::gpu::StepJob first = with;
    first.t = between.global();
    first.sends.t = t;
    rows.add({first, rowsOf(rank, with.width), with.width, rank});
    matrices_.back().t = &between;
    flrc::gpu::StepJob last = given(between, rank, t);
    last.input = plan_.newInput();
    return {last, panelsOf(width, rank), rank, width};
  }

  flrc::gpu::StepPlan::Matrix rowsOf(int outputs, int inputs) {
    Matrix& matrix = add(outputs, inputs, false, [&](Weights& weights) {
      flrc::RowMatrix& rows = weights.rows = flrc::allocateRows(outputs, inputs, dtype_);
      fillWithNoise(rows, matrices_.size());
      weights.data = flrc::gpu::packRows(dtype_, outputs, rows.stride, rows.data.data(), rows.scale.data(),
                                         rows.zero.data());
    });
    return {dtype_, false, inputs, matrix.data->read()};
  }
  flrc::gpu::StepPlan::Matrix panelsOf(int outputs, int rank) {
    Matrix& matrix = add(outputs, rank, true, [&](Weights& weights) {
      flrc::PanelMatrix& panels = weights.panels = flrc::allocatePanels(rank, outputs, dtype_);
      fillWithNoise(panels, matrices_.size());
      flrc::gpu::PackedPanels packed = flrc::gpu::packPanels(dtype_, outputs, rank, panels.data.data(),
                                                             panels.scale.data(), panels.zero.data());
      weights.data = std::move(packed.data);
      weights.scale = std::move(packed.scale);
      weights.zero = std::move(packed.zero);
    });
    return {dtype_, true, rank, matrix.data->read(), matrix.scale->read(), matrix.zero->read()};
  }

  template <typename Make>
  Matrix& add(int outputs, int inputs, bool panels, const Make& make) {
    std::shared_ptr<const Weights> host;
    for (const Matrix& matrix : matrices_) {
      const bool alike =
          matrix.outputs == outputs && matrix.inputs == inputs && (matrix.host->panels.rank > 0) == panels;
      if (alike_ && alike) host = matrix.host;
    }
    if (!host) {
      const auto made = std::make_shared<Weights>();
      make(*made);
      host = made;
    }
    bytes_ += static_cast<double>(host->data.size() + host->zero.size() + 2 * host->scale.size());
    return matrices_.emplace_back(Matrix{outputs, inputs, host, std::make_unique<Array<uint8_t>>(host->data),
                                         std::make_unique<Array<uint8_t>>(host->zero),
                                         std::make_unique<Array<uint16_t>>(host->scale)});
  }

  const flrc::gpu::StepLaunch how_;
  const flrc::Dtype dtype_;
  const bool alike_;
  flrc::gpu::StepPlan plan_;
  int hidden_, words_;
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
