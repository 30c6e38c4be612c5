#include "dropped.h"

#include <algorithm>
#include <fstream>

#include "fixture.h"
#include "model/model.h"

namespace {

// The first rows and columns of a matrix, or of a vector as one column, zeros behind them.
std::vector<float> corner(const fixture::Array& from, flrc::Shape kept, flrc::Shape shape) {
  const int64_t cols = from.shape.size() > 1 ? from.extent(1) : 1;
  std::vector<float> to(static_cast<size_t>(shape.rows * shape.cols));
  for (int64_t r = 0; r < kept.rows; ++r) {
    for (int64_t c = 0; c < kept.cols; ++c) {
      to[static_cast<size_t>(r * shape.cols + c)] =
          static_cast<float>(from.values[static_cast<size_t>(r * cols + c)]);
    }
  }
  return to;
}

// Writes tensors one behind the other and points sources at them.
class Writer {
 public:
  explicit Writer(const temporary::File& file) : path_(file.path), stream_(file.place, std::ios::binary) {}

  void put(const std::vector<float>& values, std::vector<int64_t> shape, flrc::TensorSource& to) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(float));
    to.file = path_;
    to.offset = at_;
    to.byteLength = bytes;
    to.shape = std::move(shape);
    stream_.write(reinterpret_cast<const char*>(values.data()), bytes);
    at_ += bytes;
  }

 private:
  std::string path_;
  std::ofstream stream_;
  int64_t at_ = 0;
};

}  // namespace

Dropped::Dropped(const std::string& fixture, const std::vector<int64_t>& channels, int threads)
    : narrow(fixture::spec(fixture, threads)), zeroed(narrow) {
  narrow.config.intermediates = channels;
  Writer writer(file_);
  const auto put = [&](flrc::ModelSpec& spec, const std::string& name, flrc::Shape kept, flrc::Shape shape) {
    const auto found = std::find_if(spec.tensors.begin(), spec.tensors.end(),
                                    [&](const flrc::TensorSource& source) { return source.name == name; });
    if (found == spec.tensors.end()) return;
    const bool vector = found->shape.size() == 1;
    const auto all = fixture::arrays(found->file);
    if (vector) kept.cols = shape.cols = 1;
    writer.put(corner(all.at(name), kept, shape),
               vector ? std::vector{shape.rows} : std::vector{shape.rows, shape.cols}, *found);
  };
  for (int64_t l = 0; l < narrow.config.layers; ++l) {
    for (const int p : {flrc::kGate, flrc::kUp, flrc::kDown}) {
      const flrc::Shape kept = flrc::projectionShape(narrow.config, l, p);
      for (const char* part : {".weight", ".bias"}) {
        const std::string name = flrc::projectionName(l, p) + part;
        put(narrow, name, kept, kept);
        put(zeroed, name, kept, flrc::widestShape(narrow.config, p));
      }
    }
  }
}
