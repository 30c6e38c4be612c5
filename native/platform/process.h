#pragma once

#include <cstdint>

namespace flrc::platform {

// Cores that this process may run on, its limits counted, at least 1.
int availableCores();

// The most bytes of memory that this process has held.
int64_t peakMemory();

// Seconds of processor time that all threads of this process have used.
double processorSeconds();

// Has `handler` called when the process exits, while its other threads still run. Windows ends them first, so
// that there is nothing left to wait for: there it is not called.
void atProcessExit(void (*handler)());

}  // namespace flrc::platform
