#include "platform/library.h"

#include <windows.h>

#include "platform/windows/text.h"

namespace flrc::platform {

// "C:\..." or "\\server\..."; a path without a drive is relative to the current one.
bool isAbsolutePath(const std::string& path) {
  const auto separator = [&](size_t at) { return at < path.size() && (path[at] == '\\' || path[at] == '/'); };
  return (separator(0) && separator(1)) || (path.size() > 2 && path[1] == ':' && separator(2));
}

void* openLibrary(const std::string& path, std::string& why) {
  // What it needs is looked for beside it first.
  HMODULE library = LoadLibraryExW(widePath(path).c_str(), nullptr, LOAD_WITH_ALTERED_SEARCH_PATH);
  if (!library) why = errorText(GetLastError());
  return library;
}

void* findSymbol(void* library, const char* name) {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}

void stayLoaded() {
  constexpr DWORD kFlags = GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN;
  HMODULE own = nullptr;
  GetModuleHandleExW(kFlags, reinterpret_cast<const wchar_t*>(&stayLoaded), &own);
}

}  // namespace flrc::platform
