#pragma once

// Projections of one input for kernels/linears.h: what tests check against fp64 and benchmarks time, from one
// list.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/linears.h"
#include "tensor/matrix.h"
#include "test/device.h"

namespace test {

enum class Form { dense, plain, pivoted };

struct Projection {
  int outputs;
  Form form = Form::dense;
  std::vector<int> stored;  // ranks of its blocks (plain: of its one)
  int active = 0;           // blocks in use (plain: ranks)
  bool bias = false;
};

struct LinearCase {
  flrc::Dtype dtype;
  int inputs;
  std::vector<Projection> projections;

  std::string name() const {
    static const char* const dtypes[] = {"f32", "bf16", "int8", "int4"};
    std::string text = dtypes[static_cast<int>(dtype)];
    for (const Projection& p : projections) {
      text += " " + std::to_string(p.outputs) + "x" + std::to_string(inputs);
      if (p.form == Form::plain)
        text += " rank " + std::to_string(p.active) + "/" + std::to_string(p.stored[0]);
      if (p.form == Form::pivoted) {
        text += " pivoted";
        for (int b = 0; b < p.active; ++b) text += " " + std::to_string(p.stored[static_cast<size_t>(b)]);
      }
      if (p.bias) text += " bias";
    }
    return text;
  }
};

// Weights worth checking, or bits that are quick to make and keep a chip as busy as any.
enum class Contents { normal, noise };

// A case's weights on the host and on the device.
class LinearProblem {
 public:
  LinearProblem(const LinearCase& of, uint64_t seed, Contents contents = Contents::normal)
      : case_(of), contents_(contents), epochs_(std::vector<uint32_t>(flrc::gpu::kMostGrid)) {
    check::Random random(seed);
    for (const Projection& projection : of.projections) add(projection, random);
    const auto zeros = [](int width) {
      return std::make_unique<Array<uint64_t>>(
          std::vector<uint64_t>(static_cast<size_t>(std::max(1, width) * flrc::gpu::kMaxColumns)));
    };
    t_ = zeros(tWidth_);
    u_ = zeros(uWidth_);
    params_.inputs = of.inputs;
    params_.t = t_->global();
    params_.u = u_->global();
    params_.tWidth = tWidth_;
    params_.uWidth = uWidth_;
    params_.epochs = epochs_.global();
  }

  // What one launch reads of weights, in bytes.
  size_t weightBytes() const { return bytes_; }
  int outputs(size_t projection) const { return case_.projections[projection].outputs; }

  // y, by projection [columns][outputs]; x [columns][inputs].
  std::vector<std::vector<float>> run(Device& device, const std::vector<float>& x, int columns,
                                      const flrc::gpu::LinearsLaunch& how) {
    const Array<float> input(x);
    std::vector<std::unique_ptr<Array<float>>> y;
    for (const Projection& p : case_.projections) {
      y.push_back(std::make_unique<Array<float>>(static_cast<size_t>(p.outputs * columns)));
    }
    enqueue(device, const_cast<Array<float>&>(input), y, columns, how);
    device.synchronise();
    std::vector<std::vector<float>> results;
    for (const auto& one : y) results.push_back(one->download());
    return results;
  }

  void enqueue(Device& device, Array<float>& x, std::vector<std::unique_ptr<Array<float>>>& y, int columns,
               const flrc::gpu::LinearsLaunch& how) {
    flrc::gpu::LinearsParams params = params_;
    params.x = x.read();
    params.columns = columns;
    for (int j = 0; j < params.rowJobs; ++j) {
      if (rowOutput_[static_cast<size_t>(j)] >= 0)
        params.rows[j].y = y[static_cast<size_t>(rowOutput_[static_cast<size_t>(j)])]->global();
    }
    for (int j = 0; j < params.panelJobs; ++j) {
      if (params.panels[j].u < 0)
        params.panels[j].y = y[static_cast<size_t>(panelOutput_[static_cast<size_t>(j)])]->global();
    }
    for (int j = 0; j < params.gatherJobs; ++j) {
      params.gathers[j].y = y[static_cast<size_t>(gatherOutput_[static_cast<size_t>(j)])]->global();
    }
    flrc::gpu::launchLinears(device.stream(), case_.dtype, params, how);
  }

  // One projection and one column in fp64, from the weights as they are stored; and for each output the sum of
  // the magnitudes of all products on the way to it, of which rounding errors are a multiple.
  struct Exact {
    std::vector<double> y, magnitude;
  };
  Exact exact(size_t projection, const float* x) const {
    const Projection& p = case_.projections[projection];
    Exact result{std::vector<double>(static_cast<size_t>(p.outputs)),
                 std::vector<double>(static_cast<size_t>(p.outputs))};
    for (const Host& host : hosts_) {
      if (host.projection != projection) continue;
      const Exact t = rowsTimes(host.rows, host.usedRows, x);
      for (size_t j = 0; j < t.y.size(); ++j) {
        const auto o = static_cast<size_t>(host.rowOutputs.empty() ? static_cast<int>(j) : host.rowOutputs[j]);
        if (!host.rowsAreOutputs) continue;
        result.y[o] += t.y[j];
        result.magnitude[o] += t.magnitude[j];
      }
      std::vector<float> weights(static_cast<size_t>(host.panels.outputs));
      for (size_t j = 0; host.panels.outputs > 0 && j < t.y.size(); ++j) {
        flrc::getRank(host.panels, static_cast<int64_t>(j), weights.data());
        for (size_t i = 0; i < weights.size(); ++i) {
          const auto o = static_cast<size_t>(host.rest.empty() ? static_cast<int>(i) : host.rest[i]);
          result.y[o] += static_cast<double>(weights[i]) * t.y[j];
          result.magnitude[o] += std::abs(static_cast<double>(weights[i])) * t.magnitude[j];
        }
      }
    }
    for (size_t o = 0; p.bias && o < result.y.size(); ++o) {
      result.y[o] += static_cast<double>(biases_[projection][o]);
      result.magnitude[o] += std::abs(static_cast<double>(biases_[projection][o]));
    }
    return result;
  }

  // Roundings on the way to an output: of an activation, to 2^-18; of the products in a slice of a line, of
  // which tensor cores may cut off what they should round, and of the slices' sums; the same for the ranks;
  // blocks and bias.
  double roundings(size_t projection) const {
    const Projection& p = case_.projections[projection];
    int ranks = 0;
    for (const int rank : p.stored) ranks = std::max(ranks, rank);
    const auto line = [](int weights) {
      return 64 + 2 * (weights < 512 ? weights : weights / 8 + 128) + 1 + 4;
    };
    return line(case_.inputs) + (ranks > 0 ? line(ranks) : 0) + p.active + 3;
  }

 private:
  struct Host {
    size_t projection;
    flrc::RowMatrix rows;
    int usedRows;
    bool rowsAreOutputs;
    flrc::PanelMatrix panels;
    std::vector<int32_t> rowOutputs, rest;
  };

  Exact rowsTimes(const flrc::RowMatrix& w, int rows, const float* x) const {
    Exact result{std::vector<double>(static_cast<size_t>(rows)),
                 std::vector<double>(static_cast<size_t>(rows))};
    std::vector<float> row(static_cast<size_t>(w.cols));
    for (int r = 0; r < rows; ++r) {
      flrc::getRow(w, r, row.data());
      for (size_t i = 0; i < row.size(); ++i) {
        const double term = static_cast<double>(row[i]) * static_cast<double>(x[i]);
        result.y[static_cast<size_t>(r)] += term;
        result.magnitude[static_cast<size_t>(r)] += std::abs(term);
      }
    }
    return result;
  }

  template <typename T, typename Bytes>
  flrc::gpu::Global<const T> upload(std::vector<std::unique_ptr<Array<T>>>& arrays, const Bytes& bytes) {
    if (bytes.size() == 0) return nullptr;
    std::vector<T> values(bytes.size() * sizeof(bytes.data()[0]) / sizeof(T));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
    arrays.push_back(std::make_unique<Array<T>>(values));
    return arrays.back()->read();
  }

  flrc::gpu::RowJob rowJob(const flrc::RowMatrix& w, int rows) {
    flrc::gpu::RowJob job{};
    job.data = upload(bytesArrays_, flrc::gpu::packRows(w.dtype, w.rows, w.stride, w.data.data(),
                                                        w.scale.data(), w.zero.data()));
    job.rows = rows;
    job.t = -1;
    if (w.rows > 0) bytes_ += w.bytes() * static_cast<size_t>(rows) / static_cast<size_t>(w.rows);
    return job;
  }

  flrc::gpu::PanelJob panelJob(const flrc::PanelMatrix& c, int rank) {
    flrc::gpu::PanelJob job{};
    const flrc::gpu::PackedPanels packed =
        flrc::gpu::packPanels(c.dtype, c.outputs, c.rank, c.data.data(), c.scale.data(), c.zero.data());
    job.data = upload(bytesArrays_, packed.data);
    job.scale = upload(halfArrays_, packed.scale);
    job.zero = upload(bytesArrays_, packed.zero);
    job.width = static_cast<int>(c.outputs);
    job.rank = rank;
    job.storedRank = static_cast<int>(c.rank);
    job.u = -1;
    bytes_ += (packed.data.size() + 2 * packed.scale.size() + packed.zero.size()) * static_cast<size_t>(rank) /
              static_cast<size_t>(std::max<int64_t>(1, c.rank));
    return job;
  }

  // Finite as bf16 and as f32: the exponent's highest bit is 0.
  static void makeNoise(flrc::Buffer& buffer, check::Random& random) {
    auto state = static_cast<uint64_t>(random.below(int64_t{1} << 40));
    for (size_t i = 0; i + 8 <= buffer.size(); i += 8) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const uint64_t bits = (state ^ state >> 29) & 0xbfffbfffbfffbfffu;
      std::memcpy(buffer.data() + i, &bits, 8);
    }
  }

  flrc::RowMatrix randomRows(check::Random& random, int rows) const {
    if (contents_ == Contents::noise) {
      flrc::RowMatrix matrix = flrc::allocateRows(rows, case_.inputs, case_.dtype);
      makeNoise(matrix.data, random);
      return matrix;
    }
    const auto values = random.floats(int64_t{rows} * case_.inputs);
    return flrc::makeRows(values.data(), rows, case_.inputs, case_.inputs, case_.dtype);
  }
  flrc::PanelMatrix randomPanels(check::Random& random, int rank, int outputs) const {
    if (contents_ == Contents::noise) {
      flrc::PanelMatrix matrix = flrc::allocatePanels(rank, outputs, case_.dtype);
      makeNoise(matrix.data, random);
      return matrix;
    }
    const auto values = random.floats(int64_t{rank} * outputs);
    return flrc::makePanels(values.data(), rank, outputs, outputs, case_.dtype);
  }

  void add(const Projection& p, check::Random& random) {
    const size_t projection = biases_.size();
    biases_.push_back(p.bias ? random.floats(p.outputs) : std::vector<float>());
    const flrc::gpu::Global<const float> bias = upload(floatArrays_, biases_.back());
    flrc::gpu::LinearsParams& to = params_;
    const auto owner = static_cast<int>(projection);
    if (p.form == Form::dense) {
      Host host{projection, randomRows(random, p.outputs), p.outputs, true, {}, {}, {}};
      flrc::gpu::RowJob& job = to.rows[to.rowJobs++] = rowJob(host.rows, p.outputs);
      job.bias = bias;
      job.outputs = p.outputs;
      rowOutput_.push_back(owner);
      hosts_.push_back(std::move(host));
      return;
    }
    const bool gathers = p.form == Form::pivoted && p.active != 1;
    flrc::gpu::GatherJob gather{};
    for (size_t b = 0; b < p.stored.size(); ++b) {
      const bool pivoted = p.form == Form::pivoted;
      if (pivoted && static_cast<int>(b) >= p.active) continue;
      const int stored = p.stored[b], rank = pivoted ? stored : p.active;
      const int width = pivoted ? p.outputs - stored : p.outputs;
      Host host{projection, randomRows(random, stored), rank, pivoted, randomPanels(random, stored, width), {},
                {}};
      flrc::gpu::RowJob& rows = to.rows[to.rowJobs++] = rowJob(host.rows, rank);
      flrc::gpu::PanelJob& panels = to.panels[to.panelJobs++] = panelJob(host.panels, rank);
      rows.t = panels.t = tWidth_;
      rows.outputs = panels.outputs = p.outputs;
      rowOutput_.push_back(pivoted && !gathers ? owner : -1);
      panelOutput_.push_back(owner);
      if (pivoted) choosePivots(host, p.outputs, random);
      if (gathers) {
        panels.u = uWidth_;
        gather.gather[gather.blocks] = upload(indexArrays_, gatherOf(host, p.outputs));
        gather.rank[gather.blocks] = stored;
        gather.t[gather.blocks] = tWidth_;
        gather.u[gather.blocks++] = uWidth_;
        uWidth_ += width;
      } else {
        panels.bias = bias;
        rows.bias = bias;
        rows.scatter = upload(indexArrays_, host.rowOutputs);
        panels.scatter = upload(indexArrays_, host.rest);
      }
      tWidth_ += (rank + flrc::gpu::kTAlign - 1) / flrc::gpu::kTAlign * flrc::gpu::kTAlign;
      hosts_.push_back(std::move(host));
    }
    if (!gathers) return;
    gather.bias = bias;
    gather.outputs = p.outputs;
    gatherOutput_.push_back(owner);
    to.gathers[to.gatherJobs++] = gather;
  }

  static void choosePivots(Host& host, int outputs, check::Random& random) {
    std::vector<int32_t> order(static_cast<size_t>(outputs));
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
    for (size_t i = order.size(); i > 1; --i)
      std::swap(order[i - 1], order[static_cast<size_t>(random.below(static_cast<int64_t>(i)))]);
    const auto rank = static_cast<std::ptrdiff_t>(host.rows.rows);
    host.rowOutputs.assign(order.begin(), order.begin() + rank);
    host.rest.assign(order.begin() + rank, order.end());
    std::sort(host.rowOutputs.begin(), host.rowOutputs.end());
    std::sort(host.rest.begin(), host.rest.end());
  }

  static std::vector<int32_t> gatherOf(const Host& host, int outputs) {
    std::vector<int32_t> gather(static_cast<size_t>(outputs));
    for (size_t j = 0; j < host.rowOutputs.size(); ++j)
      gather[static_cast<size_t>(host.rowOutputs[j])] = static_cast<int32_t>(j);
    for (size_t i = 0; i < host.rest.size(); ++i) {
      gather[static_cast<size_t>(host.rest[i])] = static_cast<int32_t>(host.rowOutputs.size() + i);
    }
    return gather;
  }

  LinearCase case_;
  Contents contents_;
  flrc::gpu::LinearsParams params_{};
  std::vector<Host> hosts_;
  std::vector<std::vector<float>> biases_;
  std::vector<int> rowOutput_, panelOutput_, gatherOutput_;
  int tWidth_ = 0, uWidth_ = 0;
  size_t bytes_ = 0;
  std::vector<std::unique_ptr<Array<uint8_t>>> bytesArrays_;
  std::vector<std::unique_ptr<Array<uint16_t>>> halfArrays_;
  std::vector<std::unique_ptr<Array<float>>> floatArrays_;
  std::vector<std::unique_ptr<Array<int32_t>>> indexArrays_;
  std::unique_ptr<Array<uint64_t>> t_, u_;
  Array<uint32_t> epochs_;
};

// Odd shapes, prefix ranks, blocks that end anywhere, grouped projections, dense ones among factored ones.
inline std::vector<LinearCase> linearCases(flrc::Dtype dtype) {
  return {{dtype, 96, {{70, Form::dense, {}}}},
          {dtype, 2100, {{45, Form::dense, {}, 0, true}}},
          {dtype, 161, {{100, Form::plain, {37}, 37}}},
          {dtype, 1100, {{33, Form::plain, {90}, 71, true}}},
          {dtype, 64, {{31, Form::plain, {5}, 1}}},
          {dtype, 200, {{130, Form::pivoted, {41}, 1, true}}},
          {dtype, 130, {{97, Form::pivoted, {20, 33, 9}, 3, true}}},
          {dtype, 130, {{97, Form::pivoted, {20, 33, 9}, 2}}},
          {dtype,
           96,
           {{64, Form::pivoted, {16, 7}, 1}, {40, Form::pivoted, {12, 9}, 2, true}, {33, Form::dense, {}}}},
          {dtype, 257, {{150, Form::plain, {40}, 24}, {150, Form::plain, {64}, 64, true}}},
          {dtype, 128, {{80, Form::pivoted, {11, 30}, 0, true}, {50, Form::pivoted, {50}, 1}}}};
}

// What is timed: the shapes of an 8B Llama's attention and MLP, dense and, bf16, at every rank.
inline std::vector<LinearCase> timedLinearCases(flrc::Dtype dtype) {
  std::vector<LinearCase> cases;
  for (const int outputs : {4096, 14336}) {
    cases.push_back({dtype, 4096, {{outputs, Form::dense, {}}}});
    for (const int rank : {256, 512, 1024, 2048}) {
      if (dtype == flrc::Dtype::bf16 || rank == 512)
        cases.push_back({dtype, 4096, {{outputs, Form::plain, {rank}, rank}}});
    }
    cases.push_back({dtype, 4096, {{outputs, Form::pivoted, {512, 256}, 1}}});
  }
  return cases;
}

// The seven projections of such a layer, bf16, as the four launches that they take; keys and values at a
// quarter of the rank, as they have a quarter of the outputs.
inline std::vector<LinearCase> layerCases(int rank) {
  const auto plain = [](int outputs, int ranks) { return Projection{outputs, Form::plain, {ranks}, ranks}; };
  const flrc::Dtype dtype = flrc::Dtype::bf16;
  return {{dtype, 4096, {plain(4096, rank), plain(1024, rank / 4), plain(1024, rank / 4)}},
          {dtype, 4096, {plain(4096, rank)}},
          {dtype, 4096, {plain(14336, rank), plain(14336, rank)}},
          {dtype, 14336, {plain(4096, rank)}}};
}

}  // namespace test
