#include "model/writer.h"

#include <functional>

#include "linalg/gemm.h"
#include "model/wide_layer.h"

namespace flrc {
namespace {

using Bytes = std::vector<uint8_t>;

const char* typeName(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return "F32";
    case Dtype::bf16:
      return "BF16";
    case Dtype::int8:
      return "I8";
    default:
      return "U8";
  }
}

class Listing {
 public:
  Listing(const Model& model, bool dense) : model_(model), dense_(dense) {
    exported_ = model.dtype == Dtype::f32 ? Dtype::f32 : Dtype::bf16;
    rows(std::string(kEmbeddingName) + ".weight", model.embedding);
    if (model.head != model.embedding) rows(std::string(kHeadName) + ".weight", model.head);
    norm(kFinalNormName, model.finalNorm);
    for (int64_t l = 0; l < model.config.layers; ++l) layer(l);
  }

  std::vector<TensorOutput> outputs;

 private:
  void add(std::string name, const char* type, std::vector<int64_t> shape, std::function<Bytes()> bytes) {
    outputs.emplace_back(std::move(name), type, std::move(shape), std::move(bytes));
  }

  // What is stored of a norm, where the model has it. It stays f32: norms and biases are small, and bf16
  // sources are restored exactly by rounding back, but for weights below 2^-15 that had an offset added to
  // them.
  void norm(const std::string& name, const Vector& values) {
    if (!values) return;
    add(name, "F32", {static_cast<int64_t>(values->size())}, [values, offset = model_.config.normOffset] {
      std::vector<float> stored = *values;
      for (float& value : stored) value -= offset;
      return rawBytes(stored);
    });
  }

  // `count` stored rows of `cols` values, given by store(row, out); split in its parts when quantised.
  void stored(const std::string& name, Dtype dtype, int64_t count, int64_t cols,
              std::function<void(int64_t, StoredRow&)> store) {
    auto collect = [count, store](Bytes StoredRow::*part) {
      return [count, store, part] {
        Bytes all;
        StoredRow row;
        for (int64_t r = 0; r < count; ++r) {
          store(r, row);
          const Bytes& bytes = row.*part;
          all.insert(all.end(), bytes.begin(), bytes.end());
        }
        return all;
      };
    };
    if (dtype == Dtype::f32 || dtype == Dtype::bf16) {
      add(name, typeName(dtype), {count, cols}, collect(&StoredRow::data));
      return;
    }
    const int64_t groups = (cols + kGroup - 1) / kGroup;
    add(name + ".q", typeName(dtype), {count, dtype == Dtype::int4 ? (cols + 1) / 2 : cols},
        collect(&StoredRow::data));
    add(name + ".scale", "BF16", {count, groups}, collect(&StoredRow::scale));
    if (dtype == Dtype::int4) add(name + ".zero", "U8", {count, groups}, collect(&StoredRow::zero));
  }

  void rows(const std::string& name, std::shared_ptr<const RowMatrix> matrix) {
    if (dense_) {
      wide(name, matrix->rows, matrix->cols, [matrix](float* out) {
        for (int64_t r = 0; r < matrix->rows; ++r) getRow(*matrix, r, out + r * matrix->cols);
      });
      return;
    }
    stored(name, matrix->dtype, matrix->rows, matrix->cols,
           [matrix](int64_t row, StoredRow& out) { storeRow(*matrix, row, out); });
  }

  // An exported weight, in f32 or bf16; `fill` is given zeros.
  void wide(const std::string& name, int64_t m, int64_t n, std::function<void(float*)> fill) {
    const Dtype dtype = exported_;
    add(name, typeName(dtype), {m, n}, [=] {
      std::vector<float> values(static_cast<size_t>(m * n));
      fill(values.data());
      if (dtype == Dtype::f32) return rawBytes(values);
      std::vector<uint16_t> narrow(values.size());
      for (size_t i = 0; i < values.size(); ++i) narrow[i] = floatToBf16(values[i]);
      return rawBytes(narrow);
    });
  }

  void layer(int64_t l) {
    const Layer& layer = model_.layers[static_cast<size_t>(l)];
    norm(layerName(l, kAttentionNormName), layer.attentionNorm);
    norm(layerName(l, mlpNormName(model_.config)), layer.mlpNorm);
    norm(layerName(l, kAttentionOutputNormName), layer.attentionOutputNorm);
    norm(layerName(l, kMlpOutputNormName), layer.mlpOutputNorm);
    norm(layerName(l, kQueryNormName), layer.queryNorm);
    norm(layerName(l, kKeyNormName), layer.keyNorm);
    for (int p = 0; p < kProjections; ++p) projection(l, p, layer.projections[p]);
  }

  void projection(int64_t l, int p, const Linear& linear) {
    const std::string name = projectionName(l, p);
    // What is exported is of the source's config. Channels that were dropped are zeros there, and add nothing:
    // either activation of 0 is 0.
    const Shape shape = dense_ ? widestShape(model_.config, p) : Shape{linear.outputs, linear.inputs};
    if (!linear.bias.empty()) {
      add(name + ".bias", "F32", {shape.rows}, [&linear, shape] {
        std::vector<float> bias = linear.bias;
        bias.resize(static_cast<size_t>(shape.rows));
        return rawBytes(bias);
      });
    }
    if (dense_) {
      const int64_t rank = model_.rank(0, l, p);
      wide(name + ".weight", shape.rows, shape.cols,
           [&linear, rank, shape](float* out) { multiplyOut(linear, rank, shape.cols, out); });
    } else if (!linear.factored()) {
      rows(name + ".weight", linear.dense);
    } else {
      for (size_t b = 0; b < linear.blocks.size(); ++b) factors(name, linear, b);
    }
  }

  void factors(const std::string& name, const Linear& linear, size_t b) {
    const auto block = linear.blocks[b];
    const std::string suffix = "." + std::to_string(b);
    auto p = [block](int64_t row, StoredRow& out) { storeRow(block->p, row, out); };
    auto c = [block](int64_t rank, StoredRow& out) { storeRank(block->c, rank, out); };
    stored(linear.pivoted ? name + ".P" + suffix : name + ".V", block->p.dtype, block->rank(), linear.inputs,
           p);
    stored(linear.pivoted ? name + ".C" + suffix : name + ".U", block->c.dtype, block->rank(), block->c.outputs,
           c);
    if (linear.pivoted)
      add(name + ".I" + suffix, "I32", {block->rank()}, [block] { return rawBytes(block->pivot); });
  }

  // W [m, n], of factors their product, to zeros: its rows lie `stride` values apart.
  static void multiplyOut(const Linear& linear, int64_t rank, int64_t stride, float* out) {
    const int64_t m = linear.outputs, n = linear.inputs;
    for (int64_t r = 0; !linear.factored() && r < m; ++r) getRow(*linear.dense, r, out + r * stride);
    for (int64_t b = 0; b < linear.blocksFor(rank); ++b) {
      const FactorBlock& block = *linear.blocks[static_cast<size_t>(b)];
      const int64_t s = block.rank(), others = block.c.outputs;
      std::vector<float> p(static_cast<size_t>(s * n)), c(static_cast<size_t>(s * others));
      for (int64_t j = 0; j < s; ++j) {
        getRow(block.p, j, p.data() + j * n);
        if (others > 0) getRank(block.c, j, c.data() + j * others);
      }
      std::vector<float> rest(static_cast<size_t>(others * n));
      if (others > 0)
        gemm(true, false, others, n, s, 1.0f, c.data(), others, p.data(), n, 0.0f, rest.data(), n);
      for (int64_t o = 0; o < m; ++o) {
        const int64_t at = linear.pivoted ? block.gather[static_cast<size_t>(o)] : s + o;
        const float* row = at < s ? p.data() + at * n : rest.data() + (at - s) * n;
        for (int64_t i = 0; i < n; ++i) out[o * stride + i] += row[i];
      }
    }
  }

  const Model& model_;
  bool dense_;
  Dtype exported_;
};

}  // namespace

std::vector<TensorEntry> tensorEntries(const Model& model, bool dense) {
  return entriesOf(Listing(model, dense).outputs);
}

void writeTensors(const Model& model, bool dense, const std::string& file,
                  const std::vector<std::string>& names, const std::vector<int64_t>& offsets, const Job& job) {
  writeOutputs(Listing(model, dense).outputs, file, names, offsets, job);
}

}  // namespace flrc
