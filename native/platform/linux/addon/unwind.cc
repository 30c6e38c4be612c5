#include <dlfcn.h>

// The unwinder that is linked in statically asks for _dl_find_object, which only glibc 2.35 and later have.
// This one looks through the loaded objects as unwinders did before, and has the addon load from glibc 2.34 on.
#ifdef DLFO_STRUCT_HAS_EH_DBASE

#include <link.h>

#include <cstdint>

namespace {

struct Search {
  uintptr_t address;
  dl_find_object* found;
};

int visit(dl_phdr_info* object, size_t, void* data) {
  const Search& search = *static_cast<Search*>(data);
  const ElfW(Phdr)* holder = nullptr;
  const ElfW(Phdr)* frames = nullptr;
  for (const ElfW(Phdr)* part = object->dlpi_phdr; part != object->dlpi_phdr + object->dlpi_phnum; ++part) {
    const uintptr_t begin = object->dlpi_addr + part->p_vaddr;
    if (part->p_type == PT_LOAD && search.address - begin < part->p_memsz) holder = part;
    if (part->p_type == PT_GNU_EH_FRAME) frames = part;
  }
  if (holder == nullptr) return 0;
  if (frames == nullptr) return -1;
  const auto at = [&](uintptr_t offset) { return reinterpret_cast<void*>(object->dlpi_addr + offset); };
  *search.found = {};
  search.found->dlfo_map_start = at(holder->p_vaddr);
  search.found->dlfo_map_end = at(holder->p_vaddr + holder->p_memsz);
  search.found->dlfo_eh_frame = at(frames->p_vaddr);
  return 1;
}

}  // namespace

extern "C" int _dl_find_object(void* address, dl_find_object* found) noexcept {
  Search search{reinterpret_cast<uintptr_t>(address), found};
  return dl_iterate_phdr(visit, &search) == 1 ? 0 : -1;
}

#endif
