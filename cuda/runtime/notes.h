#pragma once

#include <string>

namespace flrc::gpu {

// Adds a sentence to what a user should know of how this GPU computes (BackendNotes), once in a process.
void note(const std::string& sentence);
std::string notes();

}  // namespace flrc::gpu
