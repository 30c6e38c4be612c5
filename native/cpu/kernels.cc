// Highway would take plain SSE-less code as the baseline; everything since 2008 runs SSE4, and kernels()
// refuses what does not. Nothing here may need libhwy, which Highway's debug assertions would.
#define HWY_WANT_SSE4 1
#define HWY_DISABLE_PCLMUL_AES 1
#define HWY_IS_DEBUG_BUILD 0
#define HWY_DISABLED_TARGETS (HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)

#include "cpu/kernels.h"

#include "core/error.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/kernels-inl.h"
#include "hwy/foreach_target.h"
// The static target, which foreach_target.h leaves to the file itself.
#include "cpu/kernels-inl.h"

namespace flrc::cpu {
namespace {

#if HWY_ARCH_X86
bool runsSse4() { return __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.2"); }

bool runsAvx2() {
  return runsSse4() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

bool runsAvx3() {
  return runsAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}

bool runsVnni() { return runsAvx3() && __builtin_cpu_supports("avx512vnni"); }

bool runsBf16() { return runsVnni() && __builtin_cpu_supports("avx512bf16"); }
#endif

}  // namespace

int kernelTargets(const Kernels** out, int capacity) {
  const Kernels* found[5];
  int count = 0;
#if HWY_ARCH_X86
  __builtin_cpu_init();
#if HWY_TARGETS & HWY_AVX3
  if (runsBf16()) found[count++] = &N_AVX3::bf16Table;
  if (runsVnni()) found[count++] = &N_AVX3::vnniTable;
  if (runsAvx3()) found[count++] = &N_AVX3::kernelTable;
#endif
#if HWY_TARGETS & HWY_AVX2
  if (runsAvx2()) found[count++] = &N_AVX2::kernelTable;
#endif
#if HWY_TARGETS & HWY_SSE4
  if (runsSse4()) found[count++] = &N_SSE4::kernelTable;
#endif
#else
  found[count++] = &HWY_NAMESPACE::kernelTable;
#endif
  const int given = count < capacity ? count : capacity;
  for (int i = 0; i < given; ++i) out[i] = found[i];
  return given;
}

const Kernels& kernels() {
  static const Kernels& best = [&]() -> const Kernels& {
    const Kernels* first = nullptr;
    if (kernelTargets(&first, 1) == 0) {
      throw Error(code::internal, "this processor lacks SSE4.2, which is the least that flrc runs on");
    }
    return *first;
  }();
  return best;
}

}  // namespace flrc::cpu
