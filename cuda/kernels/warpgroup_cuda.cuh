#pragma once

// Warpgroups on a GPU (sm_90a); emulator/warpgroup.h says what each function does.

#include <cuda.h>

#include "kernels/device_cuda.cuh"

namespace flrc::gpu {

// What another chip lacks is never called there.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FLRC_WARPGROUP(...) __VA_ARGS__
#else
#define FLRC_WARPGROUP(...) __trap()
#endif

struct TensorMap {
  CUtensorMap map;
};

FLRC_DEVICE void copyBox(Shared<uint8_t> to, const TensorMap& from, int column, int row, int plane,
                         Shared<uint64_t> barrier) {
  FLRC_WARPGROUP(asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(sharedAddress(to)),
      "l"(&from.map), "r"(sharedAddress(barrier)), "r"(column), "r"(row), "r"(plane)
      : "memory"));
}

FLRC_DEVICE void multicastBox(Shared<uint8_t> to, const TensorMap& from, int column, int row, int plane,
                              Shared<uint64_t> barrier, uint32_t blocks) {
  FLRC_WARPGROUP(
      asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::"
                   "cluster [%0], [%1, "
                   "{%3, %4, %5}], [%2], %6;" ::"r"(sharedAddress(to)),
                   "l"(&from.map), "r"(sharedAddress(barrier)), "r"(column), "r"(row), "r"(plane),
                   "h"(static_cast<uint16_t>(blocks))
                   : "memory"));
}

// 8 rows of one box are 1024 bytes, and box lies behind box. (What is summed over along rows has no use for the
// distance between boxes, whose rows go on in the next one.)
FLRC_DEVICE uint64_t boxDescriptor(uint32_t address) {
  constexpr uint64_t kSwizzled = uint64_t{1} << 62;
  return kSwizzled | uint64_t{1024 / 16} << 32 | uint64_t{kBoxBytes / 16} << 16 | (address & 0x3ffffu) / 16;
}

// Down: what is summed over runs down a box's rows, or else along them.
template <int N, bool kLeftDown, bool kRightDown>
FLRC_DEVICE void multiplyAsync(float (&d)[N / 2], uint64_t a, uint64_t b, int add) {
  static_assert(N == 128 || N == 256);
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  if constexpr (N == 256) {
    asm volatile(
        "{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %130, 0;\n\t"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, "
        "%23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, "
        "%43, "
        "%44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, "
        "%65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, "
        "%85, "
        "%86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, "
        "%105, "
        "%106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, "
        "%123, "
        "%124, %125, %126, %127"
        "}, %128, %129, add, 1, 1, %131, %132;\n\t}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
          "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
          "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]),
          "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
          "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),
          "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]),
          "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), "+f"(d[64]),
          "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
          "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]),
          "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]),
          "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]),
          "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]),
          "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]), "+f"(d[104]), "+f"(d[105]), "+f"(d[106]),
          "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]), "+f"(d[112]), "+f"(d[113]),
          "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]), "+f"(d[120]),
          "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
        : "l"(a), "l"(b), "r"(add), "n"(kLeftDown), "n"(kRightDown));
  } else {
    asm volatile(
        "{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %66, 0;\n\t"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, "
        "%23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, "
        "%43, "
        "%44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, %64, %65, add, 1, 1, %67, %68;\n\t}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
          "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
          "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]),
          "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
          "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),
          "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]),
          "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "l"(a), "l"(b), "r"(add), "n"(kLeftDown), "n"(kRightDown));
  }
#endif
}

template <int N>
FLRC_DEVICE void multiplyBoxes(float (&sums)[N / 2], Shared<const uint8_t> a, Shared<const uint8_t> b,
                               bool add) {
  constexpr int kRowsOfOne = 16;
  const uint32_t left = sharedAddress(a), right = sharedAddress(b);
  FLRC_WARPGROUP(asm volatile("wgmma.fence.sync.aligned;" ::: "memory"));
  FLRC_UNROLL
  for (int row = 0; row < kBoxRows; row += kRowsOfOne) {
    multiplyAsync<N, true, true>(sums, boxDescriptor(left + row * kBoxWidth * 2),
                                 boxDescriptor(right + row * kBoxWidth * 2), add || row > 0);
  }
  FLRC_WARPGROUP(asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"));
}
template <int N, bool kRightDown>
FLRC_DEVICE void multiplyWideBoxes(float (&sums)[N / 2], Shared<const uint8_t> a, Shared<const uint8_t> b,
                                   bool add) {
  constexpr int kStep = 16, kStepsDown = kBoxRows / kStep;
  const uint32_t left = sharedAddress(a), right = sharedAddress(b);
  FLRC_WARPGROUP(asm volatile("wgmma.fence.sync.aligned;" ::: "memory"));
  FLRC_UNROLL
  for (int step = 0; step < kBoxWidth / kStep; ++step) {
    const int down =
        step / kStepsDown * (N / kBoxWidth) * kBoxBytes + step % kStepsDown * kStep * kBoxWidth * 2;
    multiplyAsync<N, false, kRightDown>(sums, boxDescriptor(left + step * kStep * 2),
                                        boxDescriptor(right + (kRightDown ? down : step * kStep * 2)),
                                        add || step > 0);
  }
  FLRC_WARPGROUP(asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"));
}
template <int kLeft, int N>
FLRC_DEVICE void waitProducts(float (&sums)[N]) {
  FLRC_WARPGROUP(asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory"));
  if constexpr (kLeft == 0) {
    // Not read before that.
    FLRC_UNROLL
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(sums[i])::"memory");
  }
}

template <int kRegisters>
FLRC_DEVICE void takeRegisters() {
  FLRC_WARPGROUP(asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters)));
}
template <int kRegisters>
FLRC_DEVICE void leaveRegisters() {
  FLRC_WARPGROUP(asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters)));
}

// Clusters of such a launch that run at once on the whole chip.
template <typename Params>
int clustersAtOnce(void (*kernel)(Params), const LaunchShape& shape) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shape.sharedBytes)));
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = shape.cluster;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(shape.gridX, shape.gridY, shape.gridZ);
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.sharedBytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  check(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config));
  return clusters;
}

inline TensorMap tensorMapOf(Global<const uint16_t> data, int64_t ld, int width, int rows, int planes) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result;
    constexpr unsigned kVersion = 12000;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kVersion, cudaEnableDefault,
                                           &result));
    if (result != cudaDriverEntryPointSuccess) throw std::runtime_error("CUDA: the driver has no tensor maps");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  TensorMap map;
  const cuuint64_t lengths[] = {static_cast<cuuint64_t>(width), static_cast<cuuint64_t>(rows),
                                static_cast<cuuint64_t>(planes)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(ld) * 2, static_cast<cuuint64_t>(ld) * lengths[1] * 2};
  const cuuint32_t box[] = {kBoxWidth, kBoxRows, 1}, steps[] = {1, 1, 1};
  const CUresult status =
      encode(&map.map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<uint16_t*>(data), lengths, strides, box,
             steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw std::runtime_error("CUDA: a tensor map fails with " + std::to_string(status));
  return map;
}

}  // namespace flrc::gpu
