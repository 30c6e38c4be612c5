#pragma once

// Models of the shape of Llama 3.2 1B, with weights that mean nothing.

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "backend.h"
#include "runtime/model.h"
#include "tensor/matrix.h"
#include "test/noise.h"

namespace bench {

using flrc::Dtype;

inline constexpr int64_t kLayers = 16, kHidden = 2048, kHeads = 32, kKvHeads = 8, kHeadDim = 64,
                         kIntermediate = 8192;
inline constexpr int64_t kVocab = 128256, kContext = 4096;

struct Shape {
  int64_t rows, cols;
};
inline constexpr Shape kShapes[flrc::kBackendProjections] = {
    {kHeads * kHeadDim, kHidden}, {kKvHeads * kHeadDim, kHidden}, {kKvHeads * kHeadDim, kHidden},
    {kHidden, kHeads* kHeadDim},  {kIntermediate, kHidden},       {kIntermediate, kHidden},
    {kHidden, kIntermediate}};

inline flrc::BackendRows rowsOf(const flrc::RowMatrix& m) {
  return {m.dtype, m.rows, m.cols, m.stride, m.data.data(), m.scale.data(), m.zero.data()};
}

// The rank whose pivoted block, or plain factors, keep `share` of a matrix's parameters.
inline int64_t rankOf(Shape shape, double share, bool pivoted) {
  const auto m = static_cast<double>(shape.rows), n = static_cast<double>(shape.cols);
  const double half = (m + n) / 2;
  const double rank = pivoted ? half - std::sqrt(half * half - share * m * n) : share * m * n / (m + n);
  return static_cast<int64_t>(rank) / 8 * 8;
}

struct Block {
  flrc::RowMatrix p;
  flrc::PanelMatrix c;
  std::vector<int32_t> pivot, gather;
};

enum class Storage { pivoted, plain };

// Bytes of a weight, with its part of what a group is scaled by.
inline double bytesOf(Dtype dtype) {
  const int64_t scales = (flrc::hasScale(dtype) ? 2 : 0) + (flrc::hasZero(dtype) ? 1 : 0);
  return static_cast<double>(flrc::gpu::groupBytes(dtype) + scales) / static_cast<double>(flrc::kGroup);
}

// A model of these levels (shares of the block parameters, falling; none: dense), in pivoted blocks, or in
// plain factors of one level.
class Model {
 public:
  explicit Model(const std::vector<double>& shares, Storage storage = Storage::pivoted,
                 Dtype dtype = Dtype::bf16)
      : pivoted_(storage == Storage::pivoted), dtype_(dtype), norm_(kHidden, 1.0f) {
    // As models are loaded.
    embedding_ = flrc::allocateRows(kVocab, kHidden, dtype == Dtype::int4 ? Dtype::int8 : dtype);
    test::fillWithNoise(embedding_, 1);
    for (int64_t i = 0; i < kHeadDim / 2; ++i) {
      frequencies_.push_back(std::pow(5e5, -2.0 * static_cast<double>(i) / kHeadDim));
    }
    ranks_.resize(std::max<size_t>(1, shares.size()));
    for (int64_t l = 0; l < kLayers; ++l) {
      flrc::BackendLayer layer{norm_.data(), norm_.data(), nullptr, nullptr, nullptr, nullptr, 0, 0, {}};
      for (int p = 0; p < flrc::kBackendProjections; ++p) add(layer.projections[p], kShapes[p], shares);
      layers_.push_back(layer);
    }
    for (const auto& level : ranks_) levels_.push_back(level.data());
    rope_ = {kHeadDim / 2, frequencies_.data(), 1};
  }

  flrc::BackendModel describe() const {
    return {sizeof(flrc::BackendModel),
            kLayers,
            kHidden,
            kHeads,
            kKvHeads,
            kHeadDim,
            kIntermediate,
            kVocab,
            kContext,
            1e-5f,
            &rope_,
            1,
            flrc::Activation::silu,
            1,
            1,
            1,
            rowsOf(embedding_),
            rowsOf(embedding_),
            norm_.data(),
            layers_.data(),
            static_cast<int64_t>(levels_.size()),
            levels_.data(),
            nullptr};
  }

  // Of weights read for one token.
  double bytes(size_t level) const {
    double values = 0;
    for (size_t i = 0; i < ranks_[level].size(); ++i) {
      const Shape shape = kShapes[i % flrc::kBackendProjections];
      int64_t left = ranks_[level][i];
      if (left < 0) values += static_cast<double>(shape.rows * shape.cols);
      for (size_t b = 0; left > 0; ++b) {
        const int64_t rank = blockRanks_[i][b];
        values += static_cast<double>(rank * (shape.rows + shape.cols - (pivoted_ ? rank : 0)));
        left -= rank;
      }
    }
    return bytesOf(dtype_) * values + bytesOf(embedding_.dtype) * kVocab * kHidden;
  }

 private:
  void add(flrc::BackendLinear& to, Shape shape, const std::vector<double>& shares) {
    to = {shape.rows, shape.cols, nullptr, nullptr, 0, pivoted_, nullptr};
    blockRanks_.emplace_back();
    if (shares.empty()) {
      dense_.push_back(std::make_unique<flrc::RowMatrix>(flrc::allocateRows(shape.rows, shape.cols, dtype_)));
      test::fillWithNoise(*dense_.back(), dense_.size());
      denseRows_.push_back(std::make_unique<flrc::BackendRows>(rowsOf(*dense_.back())));
      to.dense = denseRows_.back().get();
      ranks_[0].push_back(-1);
      return;
    }
    // Blocks from the lowest level up.
    auto described = std::make_unique<std::vector<flrc::BackendBlock>>();
    int64_t below = 0;
    for (size_t l = shares.size(); l-- > 0;) {
      const int64_t rank = std::max<int64_t>(8, rankOf(shape, shares[l], pivoted_) - below);
      below += rank;
      ranks_[l].push_back(static_cast<int32_t>(below));
      blockRanks_.back().push_back(rank);
      described->push_back(block(shape, rank));
    }
    to.blocks = described->data();
    to.blockCount = static_cast<int64_t>(described->size());
    described_.push_back(std::move(described));
  }

  flrc::BackendBlock block(Shape shape, int64_t rank) {
    auto made = std::make_unique<Block>();
    made->p = flrc::allocateRows(rank, shape.cols, dtype_);
    made->c = flrc::allocatePanels(rank, pivoted_ ? shape.rows - rank : shape.rows, dtype_);
    test::fillWithNoise(made->p, blocks_.size());
    test::fillWithNoise(made->c, blocks_.size() + 1);
    if (pivoted_) placePivots(*made, shape, rank);
    const flrc::BackendPanels panels = {made->c.dtype,       made->c.outputs,      made->c.rank,
                                        made->c.data.data(), made->c.scale.data(), made->c.zero.data()};
    const flrc::BackendBlock described = {rowsOf(made->p), panels, pivoted_ ? made->pivot.data() : nullptr,
                                          pivoted_ ? made->gather.data() : nullptr};
    blocks_.push_back(std::move(made));
    return described;
  }

  // Every so many outputs is a pivot.
  static void placePivots(Block& block, Shape shape, int64_t rank) {
    block.gather.resize(static_cast<size_t>(shape.rows));
    int32_t rest = static_cast<int32_t>(rank);
    for (int64_t o = 0; o < shape.rows; ++o) {
      const auto taken = static_cast<int64_t>(block.pivot.size());
      const bool pivot = taken < rank && o >= taken * shape.rows / rank;
      block.gather[static_cast<size_t>(o)] = pivot ? static_cast<int32_t>(taken) : rest++;
      if (pivot) block.pivot.push_back(static_cast<int32_t>(o));
    }
  }

  bool pivoted_;
  Dtype dtype_;
  std::vector<float> norm_;
  std::vector<double> frequencies_;
  flrc::BackendRope rope_{};
  flrc::RowMatrix embedding_;
  std::vector<std::unique_ptr<flrc::RowMatrix>> dense_;
  std::vector<std::unique_ptr<flrc::BackendRows>> denseRows_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<std::unique_ptr<std::vector<flrc::BackendBlock>>> described_;
  std::vector<std::vector<int64_t>> blockRanks_;  // by projection
  std::vector<std::vector<int32_t>> ranks_;       // by level
  std::vector<const int32_t*> levels_;
  std::vector<flrc::BackendLayer> layers_;
};

}  // namespace bench
