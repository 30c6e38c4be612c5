// What the systems must have in common: files, memory, libraries, cores.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "platform/file.h"
#include "platform/library.h"
#include "platform/memory.h"
#include "platform/process.h"
#include "temporary.h"

using flrc::platform::File;

namespace {

std::set<std::filesystem::path> entries(const std::filesystem::path& folder) {
  std::set<std::filesystem::path> all;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) all.insert(entry.path());
  return all;
}

// A folder that is gone with the test.
struct Folder {
  Folder() { std::filesystem::create_directory(name.place); }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(name.place, ignored);
  }
  const temporary::File name;
};

}  // namespace

TEST("platform: bytes are read where they were written, in a file whose name is not ASCII") {
  const temporary::File name(u8"größe-模型");
  {
    File file(name.path, File::Use::create);
    CHECK(file.isOpen());
    CHECK(file.write(4, "late", 4));
    CHECK(file.write(0, "soon", 4));
    CHECK(file.flush());
  }
  {
    File file(name.path, File::Use::write);
    CHECK(file.write(2, "me", 2));
  }
  CHECK_EQUAL(std::filesystem::file_size(name.place), 8u);
  const File file(name.path, File::Use::read);
  CHECK_EQUAL(file.size(), 8);
  char text[16] = {};
  CHECK_EQUAL(file.read(1, text, 15), 7);
  CHECK_EQUAL(std::string(text), "omelate");
  CHECK_EQUAL(file.read(8, text, 1), 0);
}

TEST("platform: making a file empties the one that is there") {
  const temporary::File name;
  std::ofstream(name.place) << "a longer text";
  CHECK(File(name.path, File::Use::create).isOpen());
  CHECK_EQUAL(std::filesystem::file_size(name.place), 0u);
}

TEST("platform: a file that is missing is not opened and not made, and the reason is told") {
  const temporary::File name;
  for (File::Use use : {File::Use::read, File::Use::write}) CHECK(!File(name.path, use).isOpen());
  CHECK(!flrc::platform::lastError().empty());
  CHECK(!std::filesystem::exists(name.place));
}

TEST("platform: a file takes the place of another, and is removed") {
  const temporary::File from(u8"von"), to(u8"größe");
  std::ofstream(from.place) << "new";
  std::ofstream(to.place) << "old, and longer";
  CHECK(flrc::platform::replaceFile(from.path, to.path));
  CHECK(!std::filesystem::exists(from.place));
  CHECK_EQUAL(std::filesystem::file_size(to.place), 3u);
  CHECK(!flrc::platform::replaceFile(from.path, to.path));
  CHECK(flrc::platform::removeFile(to.path));
  CHECK(!std::filesystem::exists(to.place));
  CHECK(!flrc::platform::removeFile(to.path));
}

TEST("platform: an open file can be moved and removed, and goes on being what it was") {
  const temporary::File name, other;
  std::ofstream(name.place) << "old";
  const File file(name.path, File::Use::read);
  std::filesystem::rename(name.place, other.place);
  CHECK(std::filesystem::remove(other.place));
  char text[4] = {};
  CHECK_EQUAL(file.read(0, text, 3), 3);
  CHECK_EQUAL(std::string(text), "old");
}

TEST("platform: a path may be longer than Windows takes without further ado") {
  const Folder folder;
  // As long as a folder's may be; a file in it is beyond that.
  constexpr size_t kLongest = 246;
  const std::string deep = folder.name.path + "/";
  const std::string inner(kLongest - std::min(kLongest - 1, deep.size()), 'a');
  std::filesystem::create_directory(folder.name.place / inner);
  CHECK(File::scratch(deep + inner).isOpen());
}

TEST("platform: scratch files keep what is written, do not meet, and leave nothing") {
  const Folder folder;
  {
    File one = File::scratch(folder.name.path);
    File two = File::scratch(folder.name.path);
    CHECK(one.isOpen() && two.isOpen());
    CHECK(one.write(int64_t{5} << 30, "one", 3));
    CHECK(two.write(0, "two", 3));
    const File moved = std::move(one);
    CHECK(!one.isOpen());
    char text[4] = {};
    CHECK_EQUAL(moved.read(int64_t{5} << 30, text, 3), 3);
    CHECK_EQUAL(std::string(text), "one");
  }
  CHECK(entries(folder.name.place).empty());
  CHECK(!File::scratch(folder.name.path + "/no/such/folder").isOpen());
}

TEST("platform: a lock is one's alone, also within a process, and leaves nothing") {
  using flrc::platform::FileLock;
  using State = FileLock::State;
  const Folder folder;
  const std::string path = folder.name.path + "/größe.lock";
  {
    auto first = std::make_unique<FileLock>(path);
    CHECK(first->state() == State::held);
    CHECK(FileLock(path).state() == State::taken);
    CHECK(FileLock(path).state() == State::taken);
    first.reset();
    CHECK(FileLock(path).state() == State::held);
  }
  CHECK(entries(folder.name.place).empty());
  // Left by a run that was killed.
  std::ofstream(std::filesystem::path(folder.name.place) / u8"größe.lock") << "";
  CHECK(FileLock(path).state() == State::held);
  CHECK(entries(folder.name.place).empty());
  CHECK(FileLock(folder.name.path + "/no/such/folder").state() == State::failed);
  CHECK(FileLock(folder.name.path).state() == State::failed);
  CHECK(!flrc::platform::lastError().empty());
}

TEST("platform: of many that want a lock at once, one has it at a time") {
  using flrc::platform::FileLock;
  const Folder folder;
  const std::string path = folder.name.path + "/lock";
  std::atomic<int> inside{0}, had{0};
  std::atomic<bool> overlapped{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        const FileLock lock(path);
        if (lock.state() != FileLock::State::held) continue;
        if (++inside > 1) overlapped = true;
        ++had;
        --inside;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(!overlapped);
  CHECK(had.load() > 0);
}

TEST("platform: fresh pages are zeros that can be written") {
  constexpr size_t kBytes = (size_t{1} << 20) + 3;
  auto* pages = static_cast<char*>(flrc::platform::mapPages(kBytes));
  CHECK(pages != nullptr);
  if (pages == nullptr) return;
  CHECK(std::count(pages, pages + kBytes, 0) == static_cast<std::ptrdiff_t>(kBytes));
  pages[kBytes - 1] = 1;
  flrc::platform::unmapPages(pages, kBytes);
}

TEST("platform: absolute paths are told from others") {
  const auto here = temporary::utf8(std::filesystem::absolute("x"));
  CHECK(flrc::platform::isAbsolutePath(here));
  for (const char* relative : {"", "x", "x/y", "./x", "../x"}) CHECK(!flrc::platform::isAbsolutePath(relative));
}

TEST("platform: what is no library does not open, and the reason is told") {
  const temporary::File name;
  std::ofstream(name.place) << "no library";
  std::string why;
  CHECK(flrc::platform::openLibrary(name.path, why) == nullptr);
  CHECK(!why.empty());
}

TEST("platform: this process has a core and has held memory") {
  CHECK(flrc::platform::availableCores() >= 1);
  const int64_t before = flrc::platform::peakMemory();
  constexpr size_t kBytes = size_t{256} << 20;
  std::vector<char> held(kBytes, 1);
  CHECK(std::count(held.begin(), held.end(), 1) == static_cast<std::ptrdiff_t>(kBytes));
  CHECK(flrc::platform::peakMemory() >= before);
  CHECK(flrc::platform::peakMemory() >= static_cast<int64_t>(kBytes));
}
