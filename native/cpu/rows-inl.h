// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_ROWS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_ROWS_INL
#undef FLRC_CPU_ROWS_INL
#else
#define FLRC_CPU_ROWS_INL
#endif

#include "cpu/round-inl.h"
#include "cpu/tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

struct RowsCall {
  const RowMatrix& w;
  int64_t rowBegin, rowEnd;
  const RowInputs& x;
  float* y;  // [columns][ldy]
  int64_t ldy;
};

template <class Way, Dtype kType, int kVectors, int kColumns, typename Width>
HWY_INLINE void rowTileTimes(const RowsCall& call, const PanelPart& part, Width width, int64_t row,
                             int column) {
  TileSums<kVectors, kColumns> sums;
  const RowInputs& x = call.x;
  if constexpr (kType == Dtype::f32 || kType == Dtype::bf16) {
    floatTile<kType, kVectors, kColumns>(part, width, x.x + column * x.ldx, x.ldx, call.w.cols, sums);
  } else {
    sums.clear();
    const int64_t at = column * x.groups;
    const IntegerInputs inputs{x.rounded.data() + at, x.scale.data() + at, x.sum.data() + at, x.groups};
    integerTile<Way, kType, true, kVectors, kColumns>(part, width, inputs, sums);
  }
  sums.store(row, call.rowBegin, call.rowEnd, call.y + column * call.ldy, call.ldy);
}

// Columns inside, so that weights come from memory once and from the cache for the other columns.
template <class Way, Dtype kType, int kVectors, typename Width>
HWY_INLINE void rowTileTimesAll(const RowsCall& call, const PanelPart& part, Width width, int64_t row) {
  eachTile(call.x.columns, [&](auto columns, int column) HWY_ATTR {
    rowTileTimes<Way, kType, kVectors, columns>(call, part, width, row, column);
  });
}

template <class Way, Dtype kType>
void rowsTimesOf(const RowsCall& call) {
  const RowMatrix& w = call.w;
  const int64_t words = w.rowWords(), groups = w.stride / kGroup;
  for (int64_t first = call.rowBegin / kPanel * kPanel; first < call.rowEnd; first += kPanel) {
    const int64_t width = first + kPanel < w.rows ? kPanel : w.rows - first;
    const int64_t end = first + width < call.rowEnd ? first + width : call.rowEnd;
    int64_t row = call.rowBegin > first ? first + (call.rowBegin - first) / kLanes * kLanes : first;
    while (row < end) {
      const int64_t lane = row - first;
      const PanelPart part{w.data.data() + (first * words + lane) * 4, words,
                           reinterpret_cast<const uint16_t*>(w.scale.data()) + first * groups + lane,
                           w.zero.data() + first * groups + lane};
      const bool one = end - row <= kLanes;
      withWidth(width, [&](auto constant) HWY_ATTR {
        if (one) {
          rowTileTimesAll<Way, kType, 1>(call, part, constant, row);
        } else {
          rowTileTimesAll<Way, kType, kTileVectors>(call, part, constant, row);
        }
      });
      row += one ? kLanes : kTileVectors * kLanes;
    }
  }
}

template <class Way>
void rowsTimes(const RowMatrix& w, int64_t rowBegin, int64_t rowEnd, const RowInputs& x, float* y,
               int64_t ldy) {
  const RowsCall call{w, rowBegin, rowEnd, x, y, ldy};
  switch (w.dtype) {
    case Dtype::f32:
      return rowsTimesOf<Way, Dtype::f32>(call);
    case Dtype::bf16:
      return rowsTimesOf<Way, Dtype::bf16>(call);
    case Dtype::int8:
      return rowsTimesOf<Way, Dtype::int8>(call);
    case Dtype::int4:
      return rowsTimesOf<Way, Dtype::int4>(call);
  }
}

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
