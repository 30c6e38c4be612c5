#pragma once

#include <functional>
#include <memory>

#include "core/job.h"

namespace flrc {

// Runs `work` (which must not throw) on a thread of its own, reusing one that has just become idle. These
// threads coordinate; the heavy loops run on the ThreadPool. Decoding calls once per token, so starting a
// thread each time would show.
// When the process exits while work is under way, its job is cancelled and waited for up to its next check:
// OpenBLAS unmaps its buffers in a destructor, under the feet of whoever still multiplies.
void runOnJobThread(std::shared_ptr<Job> job, std::function<void()> work);

}  // namespace flrc
