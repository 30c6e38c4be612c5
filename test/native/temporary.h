#pragma once

#include <filesystem>
#include <random>
#include <string>

// Files of tests, where the system keeps such files.
namespace temporary {

inline std::string utf8(const std::filesystem::path& path) {
  const auto text = path.u8string();
  return {text.begin(), text.end()};
}

inline std::string folder() { return utf8(std::filesystem::temp_directory_path()); }

// A path for a file that is gone at the end of its test. `name` is UTF-8.
struct File {
  explicit File(const std::u8string& name = u8"") {
    const std::string unique = "flrc-test-" + std::to_string(std::random_device{}()) + "-";
    place = std::filesystem::temp_directory_path() / unique;
    place += name;
    path = utf8(place);
  }
  ~File() {
    std::error_code ignored;
    std::filesystem::remove(place, ignored);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  std::filesystem::path place;
  std::string path;
};

}  // namespace temporary
