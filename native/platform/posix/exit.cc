#include <cstdlib>

#include "platform/process.h"

namespace flrc::platform {

void atProcessExit(void (*handler)()) { std::atexit(handler); }

}  // namespace flrc::platform
