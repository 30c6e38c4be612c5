#pragma once

// What a program times, part by part. bench/cuda.sh gives each a process of its own, and begins it only where
// the tests of what it times have passed: a part that faults or hangs takes no other with it.

#include <cstdarg>
#include <cstdio>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace bench {

// Appends lines of JSON to a file, each of them whole as soon as it is measured.
class Lines {
 public:
  explicit Lines(const std::string& file) : out_(std::fopen(file.c_str(), "a")) {
    if (out_ == nullptr) throw std::runtime_error("cannot write " + file);
  }
  ~Lines() { std::fclose(out_); }
  Lines(const Lines&) = delete;
  Lines& operator=(const Lines&) = delete;

  [[gnu::format(printf, 2, 3)]] void add(const char* format, ...) {
    va_list values;
    va_start(values, format);
    std::vfprintf(out_, format, values);
    va_end(values);
    std::fputc('\n', out_);
    std::fflush(out_);
  }

 private:
  std::FILE* out_;
};

struct Part {
  std::string name;
  std::string needs;  // suites (what stands before the colon in tests' names), with commas between
  std::function<void(const std::string& file)> run;  // appends rows to the file; throws where it finds errors
};

// PROGRAM lists the parts, each with a tab and what it needs; PROGRAM PART FILE runs one.
inline int runParts(const std::vector<Part>& parts, int count, char** arguments) {
  if (count == 1) {
    for (const Part& part : parts) std::printf("%s\t%s\n", part.name.c_str(), part.needs.c_str());
    return 0;
  }
  for (const Part& part : parts) {
    if (count != 3 || part.name != arguments[1]) continue;
    try {
      part.run(arguments[2]);
      return 0;
    } catch (const std::exception& thrown) {
      std::printf("%s: %s\n", arguments[1], thrown.what());
      return 1;
    }
  }
  std::fprintf(stderr, "usage: %s [PART FILE], with a part of those listed without\n", arguments[0]);
  return 2;
}

}  // namespace bench
