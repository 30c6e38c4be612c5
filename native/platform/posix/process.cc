#include "platform/process.h"

#include <cstdlib>
#include <ctime>

namespace flrc::platform {

double processorSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

void atProcessExit(void (*handler)()) { std::atexit(handler); }

}  // namespace flrc::platform
