#include "platform/memory.h"

#include <windows.h>

namespace flrc::platform {

void* mapPages(size_t bytes) { return VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE); }

void unmapPages(void* pages, size_t) { VirtualFree(pages, 0, MEM_RELEASE); }

}  // namespace flrc::platform
