#include "fixture.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "core/job.h"
#include "model/loader.h"
#include "model/model.h"
#include "model/wide_layer.h"

namespace fixture {
namespace {

// The headers are ours, written by the safetensors library without spaces: enough of JSON to read them.
class Header {
 public:
  explicit Header(const std::string& text) : text_(text) {}

  struct Entry {
    std::string name, type;
    std::vector<int64_t> shape, offsets;
  };

  std::vector<Entry> entries() {
    std::vector<Entry> all;
    expect('{');
    do {
      Entry entry;
      entry.name = string();
      expect(':');
      if (entry.name == "__metadata__") {
        at_ = text_.find('}', at_) + 1;
        continue;
      }
      expect('{');
      do {
        const std::string key = string();
        expect(':');
        if (key == "dtype") {
          entry.type = string();
        } else {
          (key == "shape" ? entry.shape : entry.offsets) = integers();
        }
      } while (next(','));
      expect('}');
      all.push_back(entry);
    } while (next(','));
    return all;
  }

 private:
  bool next(char wanted) {
    if (text_.at(at_) != wanted) return false;
    ++at_;
    return true;
  }
  void expect(char wanted) {
    if (!next(wanted)) throw std::runtime_error("fixture header: unexpected form at " + std::to_string(at_));
  }
  std::string string() {
    expect('"');
    const size_t end = text_.find('"', at_);
    std::string value = text_.substr(at_, end - at_);
    at_ = end + 1;
    return value;
  }
  std::vector<int64_t> integers() {
    std::vector<int64_t> values;
    expect('[');
    if (next(']')) return values;
    do {
      size_t used = 0;
      values.push_back(std::stoll(text_.substr(at_, 20), &used));
      at_ += used;
    } while (next(','));
    expect(']');
    return values;
  }

  const std::string& text_;
  size_t at_ = 0;
};

struct File {
  std::string bytes;
  int64_t data = 0;
  std::vector<Header::Entry> entries;
};

File read(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error(path + " is missing; run from the repository's root");
  File file;
  file.bytes.assign(std::istreambuf_iterator<char>(stream), {});
  uint64_t length = 0;
  std::memcpy(&length, file.bytes.data(), sizeof length);
  const std::string header = file.bytes.substr(8, length);
  file.data = static_cast<int64_t>(8 + length);
  file.entries = Header(header).entries();
  return file;
}

template <typename T>
std::vector<double> widen(const char* from, size_t bytes) {
  std::vector<T> values(bytes / sizeof(T));
  std::memcpy(values.data(), from, bytes);
  return std::vector<double>(values.begin(), values.end());
}

Array array(const std::string& type, std::vector<int64_t> shape, const char* from, size_t bytes) {
  if (type == "F64") return {std::move(shape), widen<double>(from, bytes)};
  if (type == "F32") return {std::move(shape), widen<float>(from, bytes)};
  if (type == "U8") return {std::move(shape), widen<uint8_t>(from, bytes)};
  return {std::move(shape), widen<int32_t>(from, bytes)};
}

}  // namespace

std::map<std::string, Array> arrays(const std::string& path) {
  const File file = read(path);
  std::map<std::string, Array> all;
  for (const auto& entry : file.entries) {
    const char* from = file.bytes.data() + file.data + entry.offsets.at(0);
    const auto bytes = static_cast<size_t>(entry.offsets.at(1) - entry.offsets.at(0));
    all[entry.name] = array(entry.type, entry.shape, from, bytes);
  }
  return all;
}

namespace {

std::string folderOf(const std::string& name) { return "test/fixtures/pytorch/" + name + "/"; }

std::vector<int32_t> wholeNumbers(const Array& array) { return {array.values.begin(), array.values.end()}; }

// What plain models do without.
void readUnusual(const std::map<std::string, Array>& expected, flrc::ModelConfig& config) {
  if (expected.count("config.windows")) config.slidingWindow = wholeNumbers(expected.at("config.windows"));
  if (expected.count("config.layer_rope")) config.layerRope = wholeNumbers(expected.at("config.layer_rope"));
  if (expected.count("config.scales")) {
    float* const scales[] = {&config.embeddingScale, &config.queryScale, &config.residualScale,
                             &config.logitScale};
    for (size_t i = 0; i < 4; ++i) *scales[i] = static_cast<float>(expected.at("config.scales").values.at(i));
  }
  if (expected.count("config.kinds")) {
    const std::vector<int32_t> kinds = wholeNumbers(expected.at("config.kinds"));
    config.activation = static_cast<flrc::Activation>(kinds.at(0));
    config.outputNorms = kinds.at(1) != 0;
    config.normOffset = static_cast<float>(kinds.at(2));
  }
}

flrc::ModelConfig config(const std::map<std::string, Array>& expected) {
  const std::vector<double>& values = expected.at("config.integers").values;
  size_t i = 0;
  auto next = [&] { return static_cast<int64_t>(values.at(i++)); };
  flrc::ModelConfig config;
  config.layers = next();
  config.hidden = next();
  config.heads = next();
  config.kvHeads = next();
  config.headDim = next();
  config.intermediate = next();
  config.intermediates.assign(static_cast<size_t>(config.layers), config.intermediate);
  config.vocab = next();
  config.context = next();
  config.tieEmbeddings = next() != 0;
  config.qkvBias = next() != 0;
  config.outputBias = next() != 0;
  config.mlpBias = next() != 0;
  config.qkNorm = next() != 0;
  config.slidingWindow.assign(static_cast<size_t>(config.layers), static_cast<int32_t>(next()));
  config.eps = static_cast<float>(expected.at("config.eps").values.at(0));
  config.layerRope.assign(static_cast<size_t>(config.layers), 0);
  for (const char* name : {"config.rope", "config.rope.1"}) {
    if (!expected.count(name)) continue;
    flrc::Rope rope{expected.at(name).values};
    rope.scale = static_cast<float>(rope.frequencies.back());
    rope.frequencies.pop_back();
    config.ropes.push_back(rope);
  }
  readUnusual(expected, config);
  return config;
}

}  // namespace

std::vector<flrc::TensorSource> sources(const std::string& path) {
  std::vector<flrc::TensorSource> all;
  const File file = read(path);
  for (const auto& entry : file.entries) {
    flrc::TensorSource source;
    source.name = entry.name;
    source.file = path;
    source.offset = file.data + entry.offsets.at(0);
    source.byteLength = entry.offsets.at(1) - entry.offsets.at(0);
    if (entry.type == "I32") source.type = flrc::SourceType::i32;
    source.shape = entry.shape;
    all.push_back(source);
  }
  return all;
}

std::vector<std::string> names() {
  return {"llama", "llama3-scaled", "llama-linear", "llama-yarn", "mistral",
          "qwen2", "qwen3",         "smollm3",      "gemma3",     "granite"};
}

flrc::ModelSpec spec(const std::string& name, int threads) {
  const std::string path = folderOf(name) + "model.safetensors";
  flrc::ModelSpec spec;
  spec.config = config(arrays(folderOf(name) + "expected.safetensors"));
  spec.dtype = flrc::Dtype::f32;
  spec.threads = threads;
  spec.tensors = sources(path);
  return spec;
}

Fixture load(const std::string& name, int threads) {
  Fixture fixture;
  fixture.expected = arrays(folderOf(name) + "expected.safetensors");
  const Array& tokens = fixture.at("tokens");
  fixture.sequences = tokens.extent(0);
  fixture.length = tokens.extent(1);
  fixture.tokens.assign(tokens.values.begin(), tokens.values.end());
  fixture.model = flrc::loadModel(spec(name, threads), flrc::Job());
  return fixture;
}

std::shared_ptr<const flrc::Model> inF32(const flrc::Model& model) {
  auto wide = std::make_shared<flrc::Model>(model);
  const auto widen = [&](auto& matrix) { matrix = flrc::converted(matrix, flrc::Dtype::f32, model.threads); };
  widen(wide->embedding);
  widen(wide->head);
  for (flrc::Layer& layer : wide->layers) {
    for (flrc::Linear& linear : layer.projections) widen(linear.dense);
  }
  return wide;
}

flrc::ModelSpec twoLevelsSpec(int threads) {
  flrc::ModelSpec of = spec(kTwoLevelsOf, threads);
  const Array levels = arrays(kTwoLevels).at("levels");
  const auto count = static_cast<size_t>(levels.extent(1));
  for (size_t l = 0; l < 2; ++l) {
    of.levels.emplace_back(levels.values.begin() + static_cast<int64_t>(l * count),
                           levels.values.begin() + static_cast<int64_t>((l + 1) * count));
  }
  for (size_t i = 0; i < count; ++i) {
    if (of.levels[0][i] < 0) continue;
    const std::string name = flrc::projectionName(static_cast<int64_t>(i) / flrc::kProjections,
                                                  static_cast<int>(i % flrc::kProjections));
    std::erase_if(of.tensors, [&](const auto& source) { return source.name == name + ".weight"; });
  }
  for (const flrc::TensorSource& source : sources(kTwoLevels)) {
    const bool factor = source.name.rfind("model.", 0) == 0;
    if (factor) of.tensors.push_back(source);
  }
  return of;
}

std::shared_ptr<const flrc::Model> twoLevels(int threads) {
  return flrc::loadModel(twoLevelsSpec(threads), flrc::Job());
}

}  // namespace fixture
