#pragma once

#include <cstddef>

namespace flrc::platform {

// Fresh pages of zeros for `bytes`, which cost nothing until they are touched; null where there are none.
void* mapPages(size_t bytes);
// Gives back what mapPages gave, all of it.
void unmapPages(void* pages, size_t bytes);

}  // namespace flrc::platform
