#pragma once

#include <functional>

namespace flrc {

// Runs `work` (which must not throw) on a thread of its own, reusing one that has just become idle. These
// threads coordinate; the heavy loops run on the ThreadPool. Decoding calls once per token, so starting a
// thread each time would show.
void runOnJobThread(std::function<void()> work);

}  // namespace flrc
