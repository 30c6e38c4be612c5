#pragma once

#include <string>

// What the Windows sources beside it share; windows.h stays out of all others.
namespace flrc::platform {

// A UTF-8 path as Windows takes it, in the form without a length limit where it is long.
std::wstring widePath(const std::string& path);

// What the system calls an error (GetLastError), in UTF-8.
std::string errorText(unsigned long error);

}  // namespace flrc::platform
