// What caches of keys and values take, also where memory is refused.
#include "model/kv_cache.h"

#include <cstdint>
#include <cstdlib>
#include <new>

#include "check.h"

using flrc::Dtype;
using flrc::KvCache;
using flrc::ModelConfig;

namespace {

// The over-aligned allocation of this thread that is refused, counted from 1; none at 0.
thread_local int refused = 0;

}  // namespace

// Caches are what this program over-aligns.
void* operator new(std::size_t size, std::align_val_t alignment) {
  if (refused > 0 && --refused == 0) throw std::bad_alloc();
  const auto align = static_cast<std::size_t>(alignment);
  void* whole = std::malloc(size + align + sizeof(void*));
  if (!whole) throw std::bad_alloc();
  const auto begin = reinterpret_cast<std::uintptr_t>(whole) + sizeof(void*);
  auto* at = reinterpret_cast<void**>((begin + align - 1) / align * align);
  at[-1] = whole;
  return at;
}
void operator delete(void* at, std::align_val_t) noexcept {
  if (at) std::free(static_cast<void**>(at)[-1]);
}
void operator delete(void* at, std::size_t, std::align_val_t alignment) noexcept {
  operator delete(at, alignment);
}

namespace {

ModelConfig config() {
  ModelConfig config;
  config.layers = 1;
  config.kvHeads = 2;
  config.headDim = 32;
  return config;
}

size_t bytesOf(int64_t positions, Dtype dtype) {
  return static_cast<size_t>(positions * KvCache::positionBytes(config(), dtype));
}

}  // namespace

TEST("kv cache: takes a quarter more than is asked for, whatever it held") {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    KvCache cache(config(), dtype);
    int64_t room = 0;
    for (const int64_t positions : {1, 15, 512, 513, 641, 700, 1025, 1300, 2000}) {
      cache.reserve(0, positions);
      if (positions > room) room = KvCache::roomFor(positions);
      CHECK_EQUAL(cache.bytes(), bytesOf(room, dtype));
      CHECK_AT_MOST(static_cast<double>(KvCache::roomFor(positions)), 1.25 * positions + 16);
    }
  }
}

TEST("kv cache: a layer that was refused memory has no more room than before") {
  // Keys, then values, are refused: of an empty cache, and of one that holds something.
  for (const int which : {1, 2}) {
    for (const int64_t held : {0, 20}) {
      KvCache cache(config(), Dtype::bf16);
      cache.reserve(0, held);
      bool thrown = false;
      refused = which;
      try {
        cache.reserve(0, 300);
      } catch (const std::bad_alloc&) {
        thrown = true;
      }
      refused = 0;
      CHECK(thrown);
      cache.reserve(0, 300);
      CHECK_EQUAL(cache.bytes(), bytesOf(KvCache::roomFor(300), Dtype::bf16));
    }
  }
}
