#pragma once

// Models of random weights.

#include <cmath>
#include <memory>
#include <vector>

#include "backend.h"
#include "check.h"
#include "tensor/matrix.h"

namespace test {

enum class Storage { dense, plain, pivoted };

struct Shape {
  int64_t hidden = 72, heads = 6, kvHeads = 2, headDim = 16, intermediate = 200, layers = 2;
  Storage storage = Storage::dense;
  bool extras = false;  // biases, and norms of queries and keys
  int64_t window = 0;
  bool mixed = false;  // keys and gates stay dense
  flrc::Dtype dtype = flrc::Dtype::bf16;
  std::vector<int64_t> channels = {};  // of each layer's MLP; none: all of intermediate
};
inline constexpr int64_t kVocab = 90;
inline constexpr int64_t kContext = 4096;

// A model of random weights; factored, of two levels. Owns what its description points to.
class RandomModel {
 public:
  explicit RandomModel(const Shape& shape) : shape_(shape), random_(11) {
    embedding_ = rows(kVocab, shape.hidden, shape.dtype == flrc::Dtype::int4 ? flrc::Dtype::int8 : shape.dtype);
    norm_ = values(shape.hidden);
    headNorm_ = values(shape.headDim);
    for (int64_t i = 0; i < shape.headDim / 2; ++i)
      frequencies_.push_back(std::pow(1e4, -2.0 * i / shape.headDim));
    const int64_t q = shape.heads * shape.headDim, kv = shape.kvHeads * shape.headDim;
    ranks_.resize(levels());
    for (int64_t l = 0; l < shape.layers; ++l) {
      const int64_t ff = shape.channels.empty() ? shape.intermediate : shape.channels[static_cast<size_t>(l)];
      const int64_t sides[flrc::kBackendProjections][2] = {
          {q, shape.hidden},  {kv, shape.hidden}, {kv, shape.hidden}, {shape.hidden, q},
          {ff, shape.hidden}, {ff, shape.hidden}, {shape.hidden, ff}};
      const float* heads = shape.extras ? headNorm_.data() : nullptr;
      flrc::BackendLayer layer{norm_.data(), norm_.data(), heads, heads, nullptr, nullptr, shape.window, 0, {}};
      for (int p = 0; p < flrc::kBackendProjections; ++p) {
        // Of some projections of plain factors the lower level is nothing at all.
        const bool dense = shape.storage == Storage::dense || (shape.mixed && (p == 1 || p == 4));
        add(layer.projections[p], sides[p][0], sides[p][1], dense, l == 1 && p == 3);
      }
      layers_.push_back(layer);
    }
    for (const auto& level : ranks_) levels_.push_back(level.data());
    rope_ = {shape.headDim / 2, frequencies_.data(), 1};
    description = {sizeof(flrc::BackendModel),
                   shape.layers,
                   shape.hidden,
                   shape.heads,
                   shape.kvHeads,
                   shape.headDim,
                   shape.intermediate,
                   kVocab,
                   kContext,
                   1e-5f,
                   &rope_,
                   1,
                   flrc::Activation::silu,
                   1,
                   1,
                   1,
                   rowsOf(*embedding_),
                   rowsOf(*embedding_),
                   norm_.data(),
                   layers_.data(),
                   static_cast<int64_t>(levels_.size()),
                   levels_.data(),
                   nullptr};
  }
  RandomModel(const RandomModel&) = delete;

  size_t levels() const { return shape_.storage == Storage::dense ? 1 : 2; }

  flrc::BackendModel description{};

 private:
  using Rows = std::unique_ptr<flrc::RowMatrix>;

  static flrc::BackendRows rowsOf(const flrc::RowMatrix& m) {
    return {m.dtype, m.rows, m.cols, m.stride, m.data.data(), m.scale.data(), m.zero.data()};
  }
  std::vector<float> values(int64_t count) {
    std::vector<float> some;
    for (const float value : random_.floats(count)) some.push_back(1 + value / 4);
    return some;
  }
  std::vector<float> weights(int64_t outputs, int64_t inputs) {
    std::vector<float> some = random_.floats(outputs * inputs);
    for (float& value : some) value /= std::sqrt(static_cast<float>(inputs));
    return some;
  }
  Rows rows(int64_t count, int64_t width, flrc::Dtype dtype) {
    return std::make_unique<flrc::RowMatrix>(
        flrc::makeRows(weights(count, width).data(), count, width, width, dtype));
  }

  void add(flrc::BackendLinear& to, int64_t outputs, int64_t inputs, bool dense, bool vanishes) {
    to = {outputs, inputs, nullptr, nullptr, 0, shape_.storage == Storage::pivoted, nullptr};
    if (shape_.extras) {
      biases_.push_back(std::make_unique<std::vector<float>>(values(outputs)));
      to.bias = biases_.back()->data();
    }
    if (dense) {
      rows_.push_back(rows(outputs, inputs, shape_.dtype));
      dense_.push_back(std::make_unique<flrc::BackendRows>(rowsOf(*rows_.back())));
      to.dense = dense_.back().get();
      for (auto& level : ranks_) level.push_back(-1);
      return;
    }
    const int64_t most = std::min(outputs, inputs), low = vanishes ? 0 : most / 3, high = most * 2 / 3;
    ranks_[0].push_back(static_cast<int32_t>(high));
    ranks_[1].push_back(static_cast<int32_t>(low));
    blocks_.push_back(std::make_unique<std::vector<flrc::BackendBlock>>());
    if (shape_.storage == Storage::plain) {
      blocks_.back()->push_back(block(outputs, inputs, high));
    } else {
      if (low > 0) blocks_.back()->push_back(block(outputs, inputs, low));
      blocks_.back()->push_back(block(outputs, inputs, high - low));
    }
    to.blocks = blocks_.back()->data();
    to.blockCount = static_cast<int64_t>(blocks_.back()->size());
  }

  flrc::BackendBlock block(int64_t outputs, int64_t inputs, int64_t rank) {
    const bool pivoted = shape_.storage == Storage::pivoted;
    const int64_t others = pivoted ? outputs - rank : outputs;
    rows_.push_back(rows(rank, inputs, shape_.dtype));
    panels_.push_back(std::make_unique<flrc::PanelMatrix>(
        flrc::makePanels(weights(rank, others).data(), rank, others, others, shape_.dtype)));
    const flrc::PanelMatrix& c = *panels_.back();
    const flrc::BackendPanels panels{c.dtype, c.outputs, c.rank, c.data.data(), c.scale.data(), c.zero.data()};
    if (!pivoted) return {rowsOf(*rows_.back()), panels, nullptr, nullptr};
    // Every so many outputs is a pivot.
    auto& pivot = *indices_.emplace_back(std::make_unique<std::vector<int32_t>>());
    auto& gather = *indices_.emplace_back(std::make_unique<std::vector<int32_t>>());
    auto rest = static_cast<int32_t>(rank);
    for (int64_t o = 0; o < outputs; ++o) {
      const auto taken = static_cast<int64_t>(pivot.size());
      const bool is = taken < rank && o >= taken * outputs / rank;
      gather.push_back(is ? static_cast<int32_t>(taken) : rest++);
      if (is) pivot.push_back(static_cast<int32_t>(o));
    }
    return {rowsOf(*rows_.back()), panels, pivot.data(), gather.data()};
  }

  Shape shape_;
  check::Random random_;
  Rows embedding_;
  std::vector<float> norm_, headNorm_;
  std::vector<double> frequencies_;
  flrc::BackendRope rope_{};
  std::vector<Rows> rows_;
  std::vector<std::unique_ptr<flrc::PanelMatrix>> panels_;
  std::vector<std::unique_ptr<flrc::BackendRows>> dense_;
  std::vector<std::unique_ptr<std::vector<int32_t>>> indices_;
  std::vector<std::unique_ptr<std::vector<float>>> biases_;
  std::vector<std::unique_ptr<std::vector<flrc::BackendBlock>>> blocks_;
  std::vector<std::vector<int32_t>> ranks_;
  std::vector<const int32_t*> levels_;
  std::vector<flrc::BackendLayer> layers_;
};

inline const flrc::BackendCancel kNever = {nullptr, [](void*) { return false; }};

}  // namespace test
