#pragma once

// The device layer on a GPU; emulator/device.h says what each function does.

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "kernels/device_full.h"
#include "kernels/shape.h"

#define FLRC_KERNEL __global__
#define FLRC_DEVICE __device__ __forceinline__
#define FLRC_UNROLL _Pragma("unroll")
#define FLRC_PRAGMA(text) _Pragma(#text)
#define FLRC_UNROLL_BY(count) FLRC_PRAGMA(unroll count)
#define FLRC_KERNEL_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define FLRC_PARAMS(Params) const __grid_constant__ Params

namespace flrc::gpu {

template <typename T>
using Global = T*;
template <typename T>
using Shared = T*;
template <typename U, typename T>
__host__ __device__ __forceinline__ U* pointerCast(T* pointer) {
  return reinterpret_cast<U*>(pointer);
}

FLRC_DEVICE int threadIndex() { return static_cast<int>(threadIdx.x); }
FLRC_DEVICE int blockThreads() { return static_cast<int>(blockDim.x); }
FLRC_DEVICE int laneIndex() { return static_cast<int>(threadIdx.x) % 32; }
FLRC_DEVICE int warpIndex() { return static_cast<int>(threadIdx.x) / 32; }
FLRC_DEVICE int gridX() { return static_cast<int>(gridDim.x); }
FLRC_DEVICE int gridY() { return static_cast<int>(gridDim.y); }
FLRC_DEVICE int blockX() { return static_cast<int>(blockIdx.x); }
FLRC_DEVICE int blockY() { return static_cast<int>(blockIdx.y); }
FLRC_DEVICE int blockZ() { return static_cast<int>(blockIdx.z); }

template <typename T>
FLRC_DEVICE Shared<T> sharedMemory(size_t offset) {
  extern __shared__ __align__(1024) uint8_t flrcShared[];
  return reinterpret_cast<T*>(flrcShared + offset);
}
FLRC_DEVICE uint32_t sharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

FLRC_DEVICE void syncBlock() { __syncthreads(); }
FLRC_DEVICE void syncWarp() { __syncwarp(); }

// What a chip before sm_90 lacks is never called there: the host launches kernels that do without.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define FLRC_HOPPER(...) __VA_ARGS__
#else
#define FLRC_HOPPER(...) __trap()
#endif

FLRC_DEVICE int clusterRank() {
  uint32_t rank = 0;
  FLRC_HOPPER(asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank)));
  return static_cast<int>(rank);
}
FLRC_DEVICE int clusterBlocks() {
  uint32_t count = 1;
  FLRC_HOPPER(asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(count)));
  return static_cast<int>(count);
}
FLRC_DEVICE void syncCluster() {
  FLRC_HOPPER(asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::
                               : "memory"));
}
FLRC_DEVICE void meetCluster() {
  FLRC_HOPPER(asm volatile("barrier.cluster.arrive.relaxed.aligned;\n\tbarrier.cluster.wait.aligned;" ::
                               : "memory"));
}
template <typename T>
FLRC_DEVICE Shared<T> peerShared(Shared<T> mine, int rank) {
  uint64_t peer = 0;
  FLRC_HOPPER(asm volatile("mapa.u64 %0, %1, %2;" : "=l"(peer) : "l"(mine), "r"(rank)));
  return reinterpret_cast<T*>(peer);
}

template <typename T>
FLRC_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
template <typename T>
FLRC_DEVICE T shuffleXor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

FLRC_DEVICE float fusedMultiplyAdd(float a, float b, float c) { return __fmaf_rn(a, b, c); }
FLRC_DEVICE double fusedMultiplyAdd(double a, double b, double c) { return __fma_rn(a, b, c); }
FLRC_DEVICE double inverseRoot(double value) { return rsqrt(value); }
FLRC_DEVICE float bitsToFloat(uint32_t bits) { return __uint_as_float(bits); }
FLRC_DEVICE uint32_t floatToBits(float value) { return __float_as_uint(value); }

FLRC_DEVICE uint32_t roundHalves(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
FLRC_DEVICE uint32_t subtractHalves(uint32_t a, uint32_t b) {
  uint32_t difference;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(difference) : "r"(a), "r"(0x3f803f80u), "r"(b ^ 0x80008000u));
  return difference;
}

FLRC_DEVICE Word4 streamed(const Word4* from) {
  Word4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}
FLRC_DEVICE void copyAsync(Shared<uint8_t> to, Global<const uint8_t> from, int bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(sharedAddress(to)), "l"(from), "r"(bytes)
               : "memory");
}
template <int kBytes>
FLRC_DEVICE void copyAsync(Shared<uint8_t> to, Global<const uint8_t> from) {
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(sharedAddress(to)), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(sharedAddress(to)), "l"(from), "n"(kBytes)
                 : "memory");
  }
}
FLRC_DEVICE void copyValueAsync(Shared<double> to, Global<const double> from, bool read) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(sharedAddress(to)), "l"(from),
               "r"(read ? 8 : 0)
               : "memory");
}
FLRC_DEVICE void commitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft>
FLRC_DEVICE void waitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

FLRC_DEVICE void phaseInit(Shared<uint64_t> barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(sharedAddress(barrier)), "r"(arrivals)
               : "memory");
  // Seen by the copy engine, too, before its first arrival.
  FLRC_HOPPER(asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"));
}
FLRC_DEVICE void phaseArrive(Shared<uint64_t> barrier) {
  asm volatile(
      "{\n\t.reg .b64 state;\n\tmbarrier.arrive.shared::cta.b64 state, [%0];\n\t}" ::"r"(sharedAddress(barrier))
      : "memory");
}
FLRC_DEVICE void phaseArriveAt(Shared<uint64_t> barrier, int rank) {
  FLRC_HOPPER(asm volatile(
      "{\n\t.reg .b32 peer;\n\tmapa.shared::cluster.u32 peer, %0, %1;\n\t"
      "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [peer];\n\t}" ::"r"(sharedAddress(barrier)),
      "r"(rank)
      : "memory"));
}
FLRC_DEVICE void phaseExpect(Shared<uint64_t> barrier, uint32_t bytes) {
  FLRC_HOPPER(asm volatile(
      "{\n\t.reg .b64 state;\n\tmbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n\t}" ::"r"(
          sharedAddress(barrier)),
      "r"(bytes)
      : "memory"));
}
// What has not come after half a minute never will, and an error is better than to hang. In units of 2^32 ns,
// for whoever waits has few registers to spare.
inline constexpr uint32_t kMostPassed = 7;
FLRC_DEVICE uint32_t clockNow() {
  uint32_t now;
  asm volatile("mov.u32 %0, %%globaltimer_hi;" : "=r"(now));
  return now;
}
FLRC_DEVICE bool isPhaseOver(Shared<uint64_t> barrier, uint32_t parity) {
  uint32_t over = 0;
  FLRC_HOPPER(asm volatile(
      "{\n\t.reg .pred over;\n\tmbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n\tselp.u32 %0, 1, "
      "0, over;\n\t}"
      : "=r"(over)
      : "r"(sharedAddress(barrier)), "r"(parity)
      : "memory"));
  return over != 0;
}
FLRC_DEVICE void phaseWait(Shared<uint64_t> barrier, uint32_t parity) {
  if (isPhaseOver(barrier, parity)) return;
  const uint32_t begin = clockNow();
  while (!isPhaseOver(barrier, parity)) {
    if (clockNow() - begin > kMostPassed) __trap();
  }
}
FLRC_DEVICE void bulkCopy(Shared<uint8_t> to, Global<const uint8_t> from, uint32_t bytes,
                          Shared<uint64_t> barrier) {
  FLRC_HOPPER(asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          sharedAddress(to)),
      "l"(from), "r"(bytes), "r"(sharedAddress(barrier))
      : "memory"));
}

FLRC_DEVICE void bulkCopyOnce(Shared<uint8_t> to, Global<const uint8_t> from, uint32_t bytes,
                              Shared<uint64_t> barrier) {
  FLRC_HOPPER(asm volatile(
      "{\n\t.reg .b64 policy;\n\tcreatepolicy.fractional.L2::evict_first.b64 policy, 1.0;\n\t"
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], "
      "policy;\n\t}" ::"r"(sharedAddress(to)),
      "l"(from), "r"(bytes), "r"(sharedAddress(barrier))
      : "memory"));
}

inline constexpr int kFetchBytes = 128;
FLRC_DEVICE void fetchToL2(Global<const uint8_t> from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from) : "memory");
}

// Nothing is launched as dependent before sm_90: the launch ahead is complete.
FLRC_DEVICE void dependentWait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
FLRC_DEVICE void dependentTrigger() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

FLRC_DEVICE uint32_t atomicAdd(uint32_t* to, uint32_t value) { return ::atomicAdd(to, value); }
FLRC_DEVICE uint64_t atomicAdd(uint64_t* to, uint64_t value) {
  return ::atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
}
FLRC_DEVICE uint32_t readFresh(Global<const uint32_t> from) {
  uint32_t value;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
FLRC_DEVICE void sendTagged(Global<uint64_t> to, float value, uint32_t tag) {
  const uint64_t word = static_cast<uint64_t>(tag) << 32 | __float_as_uint(value);
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
}
// About as long, in reads of the L2 cache.
inline constexpr uint32_t kMostLooks = 1u << 26;

FLRC_DEVICE bool isTagged(uint64_t word, uint32_t tag) { return static_cast<uint32_t>(word >> 32) == tag; }
FLRC_DEVICE void loadTagged(uint64_t (&out)[1], Global<const uint64_t> from) {
  asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];" : "=l"(out[0]) : "l"(from) : "memory");
}
FLRC_DEVICE void loadTagged(uint64_t (&out)[2], Global<const uint64_t> from) {
  asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];"
               : "=l"(out[0]), "=l"(out[1])
               : "l"(from)
               : "memory");
}

// Blocks that wait for the same values, and ask for all of them time and again, would take from the weights
// what the L2 cache can give: while nothing has come to any lane of a warp, only a few ask, for one value each.
// kCounted: only the first `count` values need to come.
template <int kParts, int kEach, bool kCounted>
FLRC_DEVICE void awaitTagged(Global<const uint64_t> from, int64_t stride, int count, uint32_t tag,
                             float (&out)[kParts][kEach]) {
  constexpr int kAtOnce = kEach % 2 == 0 ? 2 : 1, kLanesPerAsker = 8;
  uint64_t word[kParts][kEach / kAtOnce][kAtOnce];
  bool come = false;
  for (uint32_t looks = 0;; ++looks) {
    FLRC_UNROLL
    for (int p = 0; p < kParts; ++p) {
      FLRC_UNROLL
      for (int i = 0; i < kEach / kAtOnce; ++i) loadTagged(word[p][i], from + (p * stride + i * kAtOnce));
    }
    bool all = true, some = false;
    FLRC_UNROLL
    for (int i = 0; i < kParts * kEach; ++i) {
      const bool sent = isTagged(word[i / kEach][i % kEach / kAtOnce][i % kAtOnce], tag);
      all &= sent || (kCounted && i >= count);
      some |= sent;
    }
    // Those who wait here just now: who they are makes no difference to what they receive.
    come |= __any_sync(__activemask(), some) != 0;
    if (all) break;
    while (!come) {
      if (looks++ >= kMostLooks) __trap();
      const unsigned waiting = __activemask();
      bool sent = false;
      if (__popc(waiting & ((1u << laneIndex()) - 1)) % kLanesPerAsker == 0) {
        uint64_t first[1];
        loadTagged(first, from);
        sent = isTagged(first[0], tag);
      }
      come = __any_sync(waiting, sent) != 0;
    }
    if (looks >= kMostLooks) __trap();
  }
  FLRC_UNROLL
  for (int i = 0; i < kParts * kEach; ++i) {
    const uint64_t one = word[i / kEach][i % kEach / kAtOnce][i % kAtOnce];
    out[i / kEach][i % kEach] = kCounted && i >= count ? 0.0f : __uint_as_float(static_cast<uint32_t>(one));
  }
}
template <int kParts, int kEach>
FLRC_DEVICE void receiveTagged(Global<const uint64_t> from, int64_t stride, uint32_t tag,
                               float (&out)[kParts][kEach]) {
  awaitTagged<kParts, kEach, false>(from, stride, 0, tag, out);
}
template <int N>
FLRC_DEVICE void receiveTagged(Global<const uint64_t> from, uint32_t tag, float (&out)[N]) {
  awaitTagged<1, N, false>(from, 0, 0, tag, reinterpret_cast<float(&)[1][N]>(out));
}
template <int N>
FLRC_DEVICE void receiveFirst(Global<const uint64_t> from, int count, uint32_t tag, float (&out)[N]) {
  awaitTagged<1, N, true>(from, 0, count, tag, reinterpret_cast<float(&)[1][N]>(out));
}

FLRC_DEVICE uint32_t atomicAddOrdered(Global<uint32_t> to, uint32_t value) {
  uint32_t old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(to), "r"(value) : "memory");
  return old;
}
FLRC_DEVICE void waitForFlip(Global<uint32_t> counter, uint32_t old) {
  for (uint32_t looks = 0; looks < kMostLooks; ++looks) {
    uint32_t now;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
    if ((now ^ old) >> 31 != 0) return;
  }
  __trap();
}

template <bool kTransposed>
FLRC_DEVICE void loadMatrices(uint32_t (&out)[4], Shared<const uint16_t> row) {
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(sharedAddress(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(sharedAddress(row))
                 : "memory");
  }
}

FLRC_DEVICE void multiplyFragments(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, "
      "%1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

FLRC_DEVICE void multiplyFragments(double (&d)[4], const double (&a)[4], const double (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
      "%2, "
      "%3};"
      : "+d"(d[0]), "+d"(d[1]), "+d"(d[2]), "+d"(d[3])
      : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(b[0]), "d"(b[1]));
#else
  FLRC_UNROLL
  for (int i = 0; i < 4; ++i) {
    asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+d"(d[i % 2 * 2]), "+d"(d[i % 2 * 2 + 1])
                 : "d"(a[i]), "d"(b[i / 2]));
  }
#endif
}

using Stream = cudaStream_t;

// After these a process gets nothing more from its GPU.
inline bool isFinal(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorHardwareStackError:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorECCUncorrectable:
    case cudaErrorContained:
    case cudaErrorExternalDevice:
      return true;
    default:
      return false;
  }
}

// Throws DeviceFull, or std::runtime_error with CUDA's words.
inline void check(cudaError_t status) {
  if (status == cudaSuccess) return;
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    throw DeviceFull();
  }
  throw std::runtime_error(
      std::string("CUDA: ") + cudaGetErrorString(status) +
      (isFinal(status) ? "; this process can use the GPU no more: start it again, or use device cpu" : ""));
}

inline size_t mostSharedBytes() {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return static_cast<size_t>(bytes);
}

template <typename Params>
void allowSharedBytes(const LaunchShape& shape, void (*kernel)(Params)) {
  if (shape.sharedBytes <= 48 * 1024) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shape.sharedBytes)));
}

inline cudaLaunchConfig_t configOf(Stream stream, const LaunchShape& shape) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(shape.gridX, shape.gridY, shape.gridZ);
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.sharedBytes;
  config.stream = stream;
  return config;
}

// Blocks that a cluster of such a launch may have: 8 at most without more ado, and fewer on a small part of a
// chip (MIG).
template <typename Params>
unsigned mostClusterBlocks(Stream stream, const LaunchShape& shape, void (*kernel)(Params)) {
  allowSharedBytes(shape, kernel);
  cudaLaunchConfig_t config = configOf(stream, shape);
  int blocks = 0;
  check(cudaOccupancyMaxPotentialClusterSize(&blocks, kernel, &config));
  return static_cast<unsigned>(blocks);
}

// Params: a plain struct, passed by value.
template <typename Params>
void launch(Stream stream, const LaunchShape& shape, void (*kernel)(Params), const Params& params) {
  allowSharedBytes(shape, kernel);
  // All with the same split of a multiprocessor's memory, which must be idle for another: nothing could begin
  // early.
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared));
  cudaLaunchAttribute attributes[3];
  cudaLaunchConfig_t config = configOf(stream, shape);
  config.attrs = attributes;
  if (shape.cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs].val.clusterDim.x = shape.cluster;
    attributes[config.numAttrs].val.clusterDim.y = 1;
    attributes[config.numAttrs++].val.clusterDim.z = 1;
  }
  // A dependent launch cannot be cooperative as well; a grid of at most one block a multiprocessor has all its
  // blocks running sooner or later even so, since none of the launch ahead waits for them.
  if (shape.cooperative && !shape.dependent) {
    attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
    attributes[config.numAttrs++].val.cooperative = 1;
  }
  if (shape.dependent) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, params));
}

}  // namespace flrc::gpu
