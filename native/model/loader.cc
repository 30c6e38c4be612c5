#include "model/loader.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <optional>
#include <unordered_map>

#include "core/error.h"
#include "core/recycled.h"
#include "core/thread_pool.h"
#include "model/stored_matrix.h"

namespace flrc {
namespace {

// Rows read by one task: enough to stream, few enough to share a large embedding out evenly.
constexpr int64_t kRowsPerTask = 256;

class Loader {
 public:
  Loader(const ModelSpec& spec, const Job& job) : spec_(spec), job_(job) {
    for (const TensorSource& tensor : spec.tensors) byName_.emplace(tensor.name, &tensor);
  }

  std::shared_ptr<const Model> load() {
    checkConfig(spec_.config);
    auto model = std::make_shared<Model>();
    model->config = spec_.config;
    model->dtype = spec_.dtype;
    model->threads = spec_.threads > 0 ? spec_.threads : ThreadPool::availableCores();
    const ModelConfig& config = model->config;

    const Dtype wide = embeddingDtype(spec_.dtype);
    model->embedding = matrix(std::string(kEmbeddingName) + ".weight", {config.vocab, config.hidden}, wide);
    model->head = config.tieEmbeddings
                      ? model->embedding
                      : matrix(std::string(kHeadName) + ".weight", {config.vocab, config.hidden}, wide);
    model->finalNorm = norm(kFinalNormName, config.hidden);
    model->layers.resize(static_cast<size_t>(config.layers));
    for (int64_t l = 0; l < config.layers; ++l) readLayer(l, model->layers[static_cast<size_t>(l)]);

    run(model->threads);
    model->headNorm = scaled(model->finalNorm, config.logitScale);
    for (const auto& [block, outputs] : unfinished_) finishBlock(*block, outputs);
    model->levels = levels(*model);
    if (spec_.backend) model->device.choose(*spec_.backend);
    model->device.weights(*model, job_);
    return model;
  }

 private:
  bool has(const std::string& name) const { return byName_.count(name) != 0; }

  TensorReader reader(const std::string& name, std::vector<int64_t> shape) {
    const auto found = byName_.find(name);
    if (found == byName_.end()) {
      const std::string file = spec_.tensors.empty() ? std::string() : spec_.tensors.front().file;
      throw Error(code::modelFormat,
                  (file.empty() ? "the model" : file) + ": tensor " + name +
                      " is missing; the model is incomplete or its config is another model's",
                  file, name);
    }
    TensorSource source = *found->second;
    // Whoever has to look into the file is told its own name.
    if (!source.storedName.empty()) source.name = source.storedName;
    if (source.shape != shape) {
      throw Error(code::modelFormat,
                  source.file + ": " + source.name + " has shape " + shapeText(source.shape) + ", expected " +
                      shapeText(shape) + "; its config is another model's or the file is damaged",
                  source.file, source.name);
    }
    auto& file = files_[source.file];
    if (!file) file = std::make_shared<SourceFile>(source.file);
    return TensorReader(std::move(source), file);
  }

  static std::string shapeText(const std::vector<int64_t>& shape) {
    std::string text = "[";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
  }

  // What a norm multiplies by.
  Vector norm(const std::string& name, int64_t length) {
    auto values = std::make_shared<std::vector<float>>(static_cast<size_t>(length));
    TensorReader source = reader(name, {length});
    tasks_.push_back([source, values, offset = spec_.config.normOffset] {
      source.readRows(0, source.source().rows(), values->data());
      if (offset == 0) return;  // which would make +0 of -0
      for (float& value : *values) value += offset;
    });
    return values;
  }

  static Vector scaled(const Vector& values, float scale) {
    if (scale == 1) return values;
    auto result = std::make_shared<std::vector<float>>(*values);
    for (float& value : *result) value *= scale;
    return result;
  }

  bool isQuantised(const std::string& name) const { return has(name + ".q"); }

  // Before anything is allocated for it: a config may lie about sizes.
  std::shared_ptr<const StoredMatrix> stored(const std::string& name, Shape shape) {
    if (!isQuantised(name)) return std::make_shared<StoredMatrix>(reader(name, {shape.rows, shape.cols}));
    const bool int4 = has(name + ".zero");
    const int64_t groups = (shape.cols + kGroup - 1) / kGroup;
    TensorReader data = reader(name + ".q", {shape.rows, int4 ? (shape.cols + 1) / 2 : shape.cols});
    TensorReader scale = reader(name + ".scale", {shape.rows, groups});
    std::optional<TensorReader> zero;
    if (int4) zero = reader(name + ".zero", {shape.rows, groups});
    return std::make_shared<StoredMatrix>(std::move(data), std::move(scale), std::move(zero), shape.cols);
  }

  std::shared_ptr<RowMatrix> matrix(const std::string& name, Shape shape, Dtype dtype) {
    const auto from = stored(name, shape);
    auto into = std::make_shared<RowMatrix>(allocateRows(shape.rows, shape.cols, dtype));
    fillRows(from, shape.rows, into, into.get());
    return into;
  }

  void fillRows(const std::shared_ptr<const StoredMatrix>& from, int64_t rows,
                const std::shared_ptr<void>& owner, RowMatrix* into) {
    for (int64_t begin = 0; begin < rows; begin += kRowsPerTask) {
      const int64_t end = std::min(rows, begin + kRowsPerTask);
      tasks_.push_back([=, this] {
        (void)owner;
        from->fill(*into, begin, end, *scratch_.take());
      });
    }
  }

  void readLayer(int64_t l, Layer& layer) {
    const ModelConfig& config = spec_.config;
    layer.attentionNorm = norm(layerName(l, kAttentionNormName), config.hidden);
    layer.mlpNorm = norm(layerName(l, mlpNormName(config)), config.hidden);
    if (config.outputNorms) {
      layer.attentionOutputNorm = norm(layerName(l, kAttentionOutputNormName), config.hidden);
      layer.mlpOutputNorm = norm(layerName(l, kMlpOutputNormName), config.hidden);
    }
    if (config.qkNorm) {
      layer.queryNorm = norm(layerName(l, kQueryNormName), config.headDim);
      layer.keyNorm = norm(layerName(l, kKeyNormName), config.headDim);
    }
    for (int p = 0; p < kProjections; ++p) readProjection(l, p, layer.projections[p]);
  }

  void readProjection(int64_t l, int p, Linear& linear) {
    const std::string name = projectionName(l, p);
    const Shape shape = projectionShape(spec_.config, l, p);
    linear.outputs = shape.rows;
    linear.inputs = shape.cols;
    if (projectionHasBias(spec_.config, p)) {
      linear.bias.resize(static_cast<size_t>(shape.rows));
      TensorReader source = reader(name + ".bias", {shape.rows});
      float* to = linear.bias.data();
      tasks_.push_back([source, to] { source.readRows(0, source.source().rows(), to); });
    }
    if (isStored(name + ".P.0") || isStored(name + ".U")) {
      readFactors(name, shape, linear);
    } else {
      linear.dense = matrix(name + ".weight", shape, spec_.dtype);
    }
  }

  bool isStored(const std::string& name) const { return has(name) || isQuantised(name); }

  int64_t rankOf(const std::string& name) const {
    const auto plain = byName_.find(name);
    const auto found = plain != byName_.end() ? plain : byName_.find(name + ".q");
    if (found == byName_.end()) {
      throw Error(code::modelFormat, "tensor " + name + " is missing; the checkpoint is incomplete", {}, name);
    }
    const TensorSource& source = *found->second;
    return source.shape.empty() ? 0 : source.shape.front();
  }

  void readFactors(const std::string& name, Shape shape, Linear& linear) {
    linear.pivoted = isStored(name + ".P.0");
    const int64_t most = std::min(shape.rows, shape.cols);
    for (int64_t b = 0, sum = 0;; ++b) {
      const std::string suffix = "." + std::to_string(b);
      const std::string rows = linear.pivoted ? name + ".P" + suffix : name + ".V";
      const std::string panels = linear.pivoted ? name + ".C" + suffix : name + ".U";
      if (!isStored(rows) || (!linear.pivoted && b > 0)) break;
      const int64_t s = rankOf(rows);
      sum += s;
      if (s < 1 || sum > most) {
        throw Error(code::modelFormat, "the ranks of " + name + " do not fit its shape", {}, rows);
      }
      const int64_t outputs = linear.pivoted ? shape.rows - s : shape.rows;
      const auto p = stored(rows, {s, shape.cols}), c = stored(panels, {s, outputs});
      auto block = std::make_shared<FactorBlock>();
      block->p = allocateRows(s, shape.cols, spec_.dtype);
      block->c = allocatePanels(s, outputs, spec_.dtype);
      fillRows(p, s, block, &block->p);
      // Not shared out: two ranks may lie in one word.
      tasks_.push_back([=, this] { c->fill(block->c, 0, s, *scratch_.take()); });
      if (linear.pivoted) {
        readPivots(name + ".I" + suffix, s, *block);
        unfinished_.emplace_back(block, shape.rows);
      }
      linear.blocks.push_back(block);
    }
  }

  void readPivots(const std::string& name, int64_t s, FactorBlock& block) {
    TensorReader source = reader(name, {s});
    source.expectType(SourceType::i32);
    std::vector<uint8_t> bytes;
    source.readBytes(0, 1, bytes);
    block.pivot.resize(static_cast<size_t>(s));
    std::copy(bytes.begin(), bytes.end(), reinterpret_cast<uint8_t*>(block.pivot.data()));
  }

  void run(int threads) {
    std::atomic<int64_t> done{0};
    const auto total = static_cast<int64_t>(tasks_.size());
    ThreadPool::shared().parallelFor(total, threads, [&](int64_t i) {
      job_.check();
      tasks_[static_cast<size_t>(i)]();
      tasks_[static_cast<size_t>(i)] = nullptr;
      job_.report("load", done.fetch_add(1) + 1, total);
    });
    tasks_.clear();
  }

  std::vector<std::vector<int32_t>> levels(const Model& model) const {
    const auto count = static_cast<size_t>(model.projectionCount());
    if (spec_.levels.empty()) {
      for (size_t i = 0; i < count; ++i) {
        if (model.projection(static_cast<int64_t>(i)).factored()) {
          throw Error(code::modelFormat, "the checkpoint has factors but no levels");
        }
      }
      return {std::vector<int32_t>(count, -1)};
    }
    const std::vector<int32_t>* above = nullptr;
    for (const auto& level : spec_.levels) {
      if (level.size() != count) throw Error(code::modelFormat, "a level does not name every projection");
      for (size_t i = 0; i < count; ++i)
        checkRank(model, static_cast<int64_t>(i), level[i], above ? (*above)[i] : -2);
      above = &level;
    }
    return spec_.levels;
  }

  // above: the rank at the level before, -2 at level 0.
  static void checkRank(const Model& model, int64_t index, int32_t rank, int32_t above) {
    const Linear& linear = model.projection(index);
    const std::string name = projectionName(index / kProjections, static_cast<int>(index % kProjections));
    bool fits = linear.factored() ? rank >= 0 && rank <= linear.storedRank() : rank == -1;
    if (fits && linear.factored()) {
      fits = above == -2 ? rank == linear.storedRank() : rank <= above;
      if (linear.pivoted) {
        int64_t sum = 0;
        for (int64_t b = 0; b < linear.blocksFor(rank); ++b)
          sum += linear.blocks[static_cast<size_t>(b)]->rank();
        fits = fits && sum == rank;
      }
    }
    if (!fits) {
      throw Error(code::modelFormat,
                  "rank " + std::to_string(rank) + " of " + name + " does not fit the stored factors", {},
                  name);
    }
  }

  const ModelSpec& spec_;
  const Job& job_;
  std::unordered_map<std::string, const TensorSource*> byName_;
  std::map<std::string, std::shared_ptr<const SourceFile>> files_;
  std::vector<std::function<void()>> tasks_;
  Recycled<StoredMatrix::Scratch> scratch_;
  std::vector<std::pair<std::shared_ptr<FactorBlock>, int64_t>> unfinished_;
};

}  // namespace

std::shared_ptr<const Model> loadModel(const ModelSpec& spec, const Job& job) {
  return Loader(spec, job).load();
}

}  // namespace flrc
