#include "runtime/notes.h"

#include <mutex>

namespace flrc::gpu {
namespace {

struct Notes {
  std::mutex mutex;
  std::string text;
};

// Never destroyed: a thread that still computes at the end of the process may add to it.
Notes& all() {
  static Notes* const notes = new Notes;
  return *notes;
}

}  // namespace

void note(const std::string& sentence) {
  std::lock_guard<std::mutex> lock(all().mutex);
  std::string& text = all().text;
  if (text.find(sentence) != std::string::npos) return;
  if (!text.empty()) text += "; ";
  text += sentence;
}

std::string notes() {
  std::lock_guard<std::mutex> lock(all().mutex);
  return all().text;
}

}  // namespace flrc::gpu
