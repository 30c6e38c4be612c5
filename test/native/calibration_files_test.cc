// A calibration in files: written and read back as tensors, and kept layer by layer while it is made.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>

#include "calibrate/calibrate.h"
#include "calibrate/tensors.h"
#include "check.h"
#include "core/checksum.h"
#include "fixture.h"
#include "temporary.h"

using flrc::Calibration;
using flrc::CalibrationOptions;
using flrc::Job;
using flrc::TensorSource;

namespace {

CalibrationOptions options(const fixture::Fixture& of) {
  CalibrationOptions options;
  options.tokens = of.tokens;
  options.lengths.assign(static_cast<size_t>(of.sequences), static_cast<int32_t>(of.length));
  options.labels = flrc::Labels::data;
  options.memory = int64_t{1} << 30;
  options.scratch = temporary::folder();
  options.keepInputMoments = true;
  return options;
}

void checkSame(const flrc::SpillStore& left, const flrc::SpillStore& right, size_t slots) {
  for (size_t i = 0; i < slots; ++i) {
    std::vector<float> a, b;
    CHECK_EQUAL(left.count(i), right.count(i));
    if (left.count(i) != right.count(i)) continue;
    const float* values = left.get(i, a);
    CHECK(std::equal(values, values + left.count(i), right.get(i, b)));
  }
}

void checkSame(const Calibration& left, const Calibration& right) {
  CHECK(left.ranks == right.ranks);
  CHECK(left.curves == right.curves);
  CHECK(left.singular == right.singular);
  for (size_t i = 0; i < left.scores.size(); ++i) {
    CHECK_EQUAL(left.scores[i].weighted, right.scores[i].weighted);
    CHECK_EQUAL(left.scores[i].gradient, right.scores[i].gradient);
    CHECK_EQUAL(left.scores[i].taylor, right.scores[i].taylor);
  }
  checkSame(*left.factors, *right.factors, left.ranks.size() * 2);
  checkSame(*left.inputMoments, *right.inputMoments,
            static_cast<size_t>(left.model->config.layers * flrc::kInputs));
}

// The tensors of a calibration in a file, one after another.
std::vector<TensorSource> written(const Calibration& calibration, const temporary::File& file) {
  std::vector<TensorSource> sources;
  std::vector<std::string> names;
  std::vector<int64_t> offsets;
  int64_t end = 0;
  for (const flrc::TensorEntry& entry : flrc::calibrationTensors(calibration)) {
    names.push_back(entry.name);
    offsets.push_back(end);
    sources.push_back(
        {entry.name, file.path, end, entry.byteLength, flrc::sourceType(entry.type), entry.shape});
    end += entry.byteLength;
  }
  std::ofstream(file.place, std::ios::binary);
  flrc::writeCalibrationTensors(calibration, file.path, names, offsets, Job());
  CHECK_EQUAL(static_cast<int64_t>(std::filesystem::file_size(file.place)), end);
  return sources;
}

TensorSource& named(std::vector<TensorSource>& sources, const std::string& name) {
  return *std::find_if(sources.begin(), sources.end(), [&](const auto& one) { return one.name == name; });
}

void overwrite(const std::filesystem::path& file, int64_t offset, const void* data, size_t bytes) {
  std::fstream to(file, std::ios::binary | std::ios::in | std::ios::out);
  to.seekp(offset);
  to.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
}

// A folder that is gone with the test.
struct Folder {
  Folder() { std::filesystem::create_directory(name.place); }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(name.place, ignored);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& entry : std::filesystem::directory_iterator(name.place)) {
      all.push_back(entry.path().filename().string());
    }
    std::sort(all.begin(), all.end());
    return all;
  }
  const temporary::File name;
};

using Names = std::vector<std::string>;

}  // namespace

TEST("calibration files: what is written is read back, value for value") {
  const fixture::Fixture of = fixture::load("llama", 2);
  const auto made = flrc::calibrate(of.model, options(of), Job());
  const temporary::File file;
  const flrc::StoredCalibration stored = {written(*made, file), true, true, 1000};
  const auto read = flrc::readCalibration(of.model, stored, Job());
  checkSame(*made, *read);
  size_t held = 0;
  for (size_t i = 0; i < made->ranks.size() * 2; ++i) held += made->factors->count(i) * sizeof(float);
  for (int64_t i = 0; i < of.model->config.layers * flrc::kInputs; ++i) {
    held += made->inputMoments->count(static_cast<size_t>(i)) * sizeof(float);
  }
  CHECK_EQUAL(made->memoryBytes(), static_cast<int64_t>(held));
  CHECK_EQUAL(read->memoryBytes(), 0);
  CHECK_EQUAL(read->memory, 1000);
  // And written again from the files themselves.
  const temporary::File again;
  checkSame(*made, *flrc::readCalibration(of.model, {written(*read, again), true, true, 1}, Job()));
  Job cancelled;
  cancelled.cancel();
  CHECK_THROWS(flrc::code::aborted, flrc::readCalibration(of.model, stored, cancelled));
}

TEST("calibration files: tensors that do not fit the model, or hold no numbers, are refused") {
  const fixture::Fixture of = fixture::load("llama", 2);
  const auto made = flrc::calibrate(of.model, options(of), Job());
  const temporary::File file;
  const std::vector<TensorSource> right = written(*made, file);
  const std::string q = flrc::projectionName(0, 0);
  const auto refused = [&](const char* code, const auto& change) {
    std::vector<TensorSource> sources = right;
    change(sources);
    CHECK_THROWS(code, flrc::readCalibration(of.model, {sources, true, true, 1}, Job()));
  };
  const char* format = flrc::code::modelFormat;
  refused(format, [](auto& sources) { sources.clear(); });
  refused(format, [](auto& sources) { sources.pop_back(); });
  refused(format, [&](auto& sources) { named(sources, q + ".U").shape = {0, 0}; });
  refused(format, [&](auto& sources) { named(sources, q + ".U").shape.clear(); });
  refused(format, [&](auto& sources) { named(sources, q + ".U").shape[0] += 1000; });
  refused(format, [&](auto& sources) { std::swap(named(sources, q + ".V").shape[0], sources[0].byteLength); });
  refused(format, [&](auto& sources) { named(sources, q + ".V").byteLength -= 4; });
  refused(format, [&](auto& sources) { named(sources, q + ".V").offset = -1; });
  refused(format, [&](auto& sources) { named(sources, q + ".U").type = flrc::SourceType::i32; });
  refused(format, [&](auto& sources) { named(sources, q + ".curve").type = flrc::SourceType::f32; });
  refused(format, [&](auto& sources) { named(sources, q + ".singular").offset = int64_t{1} << 60; });
  refused(flrc::code::io, [&](auto& sources) { named(sources, q + ".V").file += "-not-there"; });

  const float notANumber = std::numeric_limits<float>::quiet_NaN();
  auto sources = right;
  overwrite(file.place, named(sources, q + ".U").offset, &notANumber, sizeof notANumber);
  const auto read = flrc::readCalibration(of.model, {sources, true, true, 1}, Job());
  std::vector<float> scratch;
  CHECK_THROWS(flrc::code::numeric, read->factors->get(0, scratch));
  const double infinite = std::numeric_limits<double>::infinity();
  overwrite(file.place, named(sources, q + ".curve").offset + 8, &infinite, sizeof infinite);
  refused(format, [](auto&) {});
}

TEST("calibration files: an interrupted one goes on below the layers that are kept, to the same values") {
  const fixture::Fixture of = fixture::load("llama", 2);
  const auto whole = flrc::calibrate(of.model, options(of), Job());
  const Folder folder;
  CalibrationOptions kept = options(of);
  kept.state = folder.name.path;
  const int64_t last = of.model->config.layers - 1;
  const auto nameOf = [](const char* kind, int64_t layer) { return kind + std::to_string(layer); };
  CHECK(last >= 1);

  // Layer by layer: the run is cancelled once it visits the one below.
  std::vector<int64_t> visited;
  for (int64_t stop = last - 1; stop >= 0; --stop) {
    Job job;
    const auto cancel = [&](int64_t layer, const flrc::LayerMoments&) {
      visited.push_back(layer);
      if (layer == stop) job.cancel();
    };
    CHECK_THROWS(flrc::code::aborted, flrc::calibrate(of.model, kept, job, cancel));
    Names expected = {nameOf("below-", stop + 1)};
    for (int64_t layer = stop + 1; layer <= last; ++layer) expected.push_back(nameOf("layer-", layer));
    CHECK(folder.names() == expected);
  }
  std::ofstream(folder.name.place / "layer-0.part") << "what a killed run had begun";
  visited.clear();
  const auto note = [&](int64_t layer, const flrc::LayerMoments&) { visited.push_back(layer); };
  const auto resumed = flrc::calibrate(of.model, kept, Job(), note);
  CHECK(visited == std::vector<int64_t>{0});
  checkSame(*whole, *resumed);
  CHECK_EQUAL(resumed->meanLoss, whole->meanLoss);
  CHECK_EQUAL(resumed->lossTokens, whole->lossTokens);
  CHECK_EQUAL(folder.names().size(), static_cast<size_t>(last + 2));
  // All of it is there: nothing is computed.
  visited.clear();
  const auto again = flrc::calibrate(of.model, kept, Job(), note);
  CHECK(visited.empty());
  checkSame(*whole, *again);
  CHECK_EQUAL(again->meanLoss, whole->meanLoss);
  CHECK(again->seconds.backward == resumed->seconds.backward);
}

TEST("calibration files: a damaged state is refused, whatever is wrong with it") {
  const fixture::Fixture of = fixture::load("llama", 2);
  const Folder folder;
  CalibrationOptions kept = options(of);
  kept.state = folder.name.path;
  flrc::calibrate(of.model, kept, Job());
  const auto refused = [&](const char* code) { CHECK_THROWS(code, flrc::calibrate(of.model, kept, Job())); };
  for (const char* name : {"layer-1", "layer-0", "below-0"}) {
    const auto file = folder.name.place / name;
    const auto size = static_cast<int64_t>(std::filesystem::file_size(file));
    std::string bytes(static_cast<size_t>(size), '\0');
    std::ifstream(file, std::ios::binary).read(bytes.data(), size);
    for (const int64_t at : {int64_t{0}, int64_t{9}, int64_t{20}, size / 2, size - 1}) {
      const char flipped = static_cast<char>(bytes[static_cast<size_t>(at)] ^ 16);
      overwrite(file, at, &flipped, 1);
      refused(flrc::code::modelFormat);
      overwrite(file, at, &bytes[static_cast<size_t>(at)], 1);
    }
    for (const int64_t length : {int64_t{0}, int64_t{7}, int64_t{30}, size / 2, size - 8, size - 1, size + 8}) {
      std::filesystem::resize_file(file, static_cast<uintmax_t>(length));
      refused(flrc::code::modelFormat);
    }
    std::ofstream(file, std::ios::binary) << bytes;
    flrc::calibrate(of.model, kept, Job());
  }
  std::filesystem::remove(folder.name.place / "below-0");
  refused(flrc::code::io);
  kept.state += "/no/such/folder";
  refused(flrc::code::io);
}

TEST("calibration files: a checksum is of the bytes, not of the pieces they come in, and knows every word") {
  std::string bytes;
  for (int i = 0; i < 100; ++i) bytes.push_back(static_cast<char>(i * 7));
  const auto sum = [&](size_t length, size_t piece) {
    flrc::Checksum all;
    for (size_t at = 0; at < length; at += piece) all.add(bytes.data() + at, std::min(piece, length - at));
    return all.value();
  };
  const uint64_t whole = sum(100, 100);
  for (size_t piece = 1; piece < 20; ++piece) CHECK_EQUAL(sum(100, piece), whole);
  for (size_t length = 0; length < 100; ++length) CHECK(sum(length, 3) != whole);
  for (char& byte : bytes) {
    byte = static_cast<char>(byte ^ 1);
    CHECK(sum(100, 100) != whole);
    byte = static_cast<char>(byte ^ 1);
  }
  // Zeros at the end are bytes too.
  bytes.assign(100, '\0');
  CHECK(sum(8, 8) != sum(16, 8));
  CHECK(sum(1, 1) != sum(2, 1));
}
