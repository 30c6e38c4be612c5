// Part of the addon alone. It imports Node-API from a "node.exe" that may have another name, such as
// Electron's: its functions are bound when they are first called, to whatever program runs.

#include <windows.h>
// After windows.h, whose types it uses.
#include <delayimp.h>

namespace {

FARPROC WINAPI findHost(unsigned event, DelayLoadInfo* info) {
  if (event != dliNotePreLoadLibrary || _stricmp(info->szDll, "node.exe") != 0) return nullptr;
  return reinterpret_cast<FARPROC>(GetModuleHandleW(nullptr));
}

}  // namespace

PfnDliHook __pfnDliNotifyHook2 = findHost;
