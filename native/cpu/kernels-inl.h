// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_KERNELS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_KERNELS_INL
#undef FLRC_CPU_KERNELS_INL
#else
#define FLRC_CPU_KERNELS_INL
#endif

#include "cpu/attention-inl.h"
#include "cpu/bf16_panels-inl.h"
#include "cpu/dequantise-inl.h"
#include "cpu/elementwise-inl.h"
#include "cpu/gather-inl.h"
#include "cpu/kernels.h"
#include "cpu/logits-inl.h"
#include "cpu/panels-inl.h"
#include "cpu/prompt-inl.h"
#include "cpu/prompt_attention-inl.h"
#include "cpu/reduce-inl.h"
#include "cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

template <class Way>
constexpr Kernels tableOf(const char* target) {
  return {
      .target = target,
      .rowsTimes = rowsTimes<Way>,
      .roundInputs = roundInputs<Way>,
      .panelsTimes = panelsTimes<Way>,
      .rowsTimesPrompt = nullptr,
      .panelsTimesPrompt = nullptr,
      .roundPrompt = nullptr,
      .setPanelOfRows = nullptr,
      .setPanelOfColumns = nullptr,
      .roundPromptOfRows = nullptr,
      .bf16PanelsTimes = nullptr,
      .attendPrompt = nullptr,
      .gather = gather,
      .rmsNorm = rmsNorm,
      .gatedTimes = {gatedTimes<Silu>, gatedTimes<GeluTanh>},
      .gatedTimesBackward = {gatedTimesBackward<Silu>, gatedTimesBackward<GeluTanh>},
      .add = add,
      .softmax = softmax,
      .logitSums = logitSums,
      .attend = attend,
      .storeKv = storeKv,
      .widenKv = widenKv,
      .dot = dot,
      .axpy = axpy,
      .fisherReduce = fisherReduce,
      .widenRows = widenRows,
      .widenPanels = widenPanels,
  };
}

#if HWY_TARGET == HWY_AVX3
constexpr Kernels kernelTable = tableOf<ShortProducts>("avx512");
constexpr Kernels vnniTable = tableOf<ByteProducts>("avx512-vnni");

constexpr Kernels withPrompts(Kernels table) {
  table.rowsTimesPrompt = rowsTimesPrompt;
  table.panelsTimesPrompt = panelsTimesPrompt;
  table.roundPrompt = roundPrompt;
  table.setPanelOfRows = setPanelOfRows;
  table.setPanelOfColumns = setPanelOfColumns;
  table.roundPromptOfRows = roundPromptOfRows;
  table.bf16PanelsTimes = bf16PanelsTimes;
  table.attendPrompt = attendPrompt;
  return table;
}
constexpr Kernels bf16Table = withPrompts(tableOf<ByteProducts>("avx512-bf16"));
#elif HWY_TARGET == HWY_AVX2
constexpr Kernels kernelTable = tableOf<ShortProducts>("avx2");
#elif HWY_TARGET == HWY_SSE4
constexpr Kernels kernelTable = tableOf<ShortProducts>("sse4");
#else
constexpr Kernels kernelTable = tableOf<ShortProducts>("neon");
#endif

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
