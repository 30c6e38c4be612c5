#include "platform/memory.h"

#include <sys/mman.h>

namespace flrc::platform {

void* mapPages(size_t bytes) {
  void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return pages == MAP_FAILED ? nullptr : pages;
}

void unmapPages(void* pages, size_t bytes) { munmap(pages, bytes); }

}  // namespace flrc::platform
