#include "tensor/output.h"

#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "platform/file.h"

namespace flrc {
namespace {

int64_t valueBytes(const std::string& type) {
  if (type == "F64") return 8;
  if (type == "F32" || type == "I32") return 4;
  return type == "BF16" ? 2 : 1;
}

class OutputFile {
 public:
  explicit OutputFile(const std::string& path) : path_(path), file_(path, platform::File::Use::write) {
    if (!file_.isOpen()) fail("cannot be opened");
  }

  void write(int64_t offset, const std::vector<uint8_t>& bytes) {
    if (!file_.write(offset, bytes.data(), static_cast<int64_t>(bytes.size()))) fail("cannot be written");
  }
  void sync() {
    if (!file_.flush()) fail("cannot be flushed to disk");
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    throw Error(code::io,
                path_ + " " + what + ": " + platform::lastError() +
                    "; nothing was kept of it: free some space, or choose an output on another disk",
                path_);
  }
  std::string path_;
  platform::File file_;
};

}  // namespace

TensorOutput::TensorOutput(std::string name, const char* type, std::vector<int64_t> shape,
                           std::function<std::vector<uint8_t>()> make)
    : entry{std::move(name), type, std::move(shape), valueBytes(type)}, bytes(std::move(make)) {
  for (int64_t extent : entry.shape) entry.byteLength *= extent;
}

std::vector<TensorEntry> entriesOf(const std::vector<TensorOutput>& outputs) {
  std::vector<TensorEntry> entries;
  for (const TensorOutput& output : outputs) entries.push_back(output.entry);
  return entries;
}

void writeOutputs(const std::vector<TensorOutput>& outputs, const std::string& file,
                  const std::vector<std::string>& names, const std::vector<int64_t>& offsets, const Job& job) {
  std::unordered_map<std::string, const TensorOutput*> byName;
  for (const TensorOutput& output : outputs) byName.emplace(output.entry.name, &output);
  OutputFile to(file);
  for (size_t i = 0; i < names.size(); ++i) {
    job.check();
    const auto found = byName.find(names[i]);
    if (found == byName.end()) throw Error(code::internal, "there is no tensor " + names[i], file, names[i]);
    const std::vector<uint8_t> bytes = found->second->bytes();
    if (static_cast<int64_t>(bytes.size()) != found->second->entry.byteLength) {
      throw Error(code::internal, "the stored size of " + names[i] + " is wrong", file, names[i]);
    }
    to.write(offsets[i], bytes);
    job.report("save", static_cast<int64_t>(i) + 1, static_cast<int64_t>(names.size()));
  }
  to.sync();
}

}  // namespace flrc
