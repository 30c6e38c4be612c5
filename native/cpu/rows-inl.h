// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_ROWS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_ROWS_INL
#undef FLRC_CPU_ROWS_INL
#else
#define FLRC_CPU_ROWS_INL
#endif

#include "cpu/weights-inl.h"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

// A row by a column is added up in kRowSums vectors (vector i of every group in sum i % kRowSums), whatever
// rows and columns it is computed with. Several columns at once take kRowBlock rows by kRowColumns columns,
// as many sums as stay in registers; a single column takes one row at a time, so that its weights come from
// memory as one stream.
#if HWY_TARGET == HWY_AVX3
inline constexpr int kRowSums = 2, kRowBlock = 2, kRowColumns = 4;
#elif HWY_TARGET == HWY_AVX2
inline constexpr int kRowSums = 2, kRowBlock = 2, kRowColumns = 2;
#elif HWY_TARGET == HWY_NEON
inline constexpr int kRowSums = 4, kRowBlock = 2, kRowColumns = 2;
#else
inline constexpr int kRowSums = 4, kRowBlock = 1, kRowColumns = 2;
#endif

// What stays the same over all rows of one call.
struct RowsCall {
  const RowMatrix& w;
  const float* x;  // [columns][ldx]
  int64_t ldx;
  const float* tail;  // [columns][kGroup]: what x holds behind its last whole group, and zeros
  float* y;           // [columns][ldy]
  int64_t ldy;
};

template <Dtype kType, int kRows, int kColumns>
struct RowSums {
  FloatVector sum[kRows][kColumns][kRowSums];

  HWY_INLINE RowSums() {}  // not the implicit one: see Group

  HWY_INLINE void clear() {
    FLRC_UNROLL
    for (int r = 0; r < kRows; ++r) {
      FLRC_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        FLRC_UNROLL
        for (int i = 0; i < kRowSums; ++i) sum[r][c][i] = hn::Zero(kFloats);
      }
    }
  }

  template <int i>
  HWY_INLINE void addVectors(const Group<kType>* group, const float* x, int64_t ldx) {
    if constexpr (i < kGroupVectors) {
      FloatVector w[kRows];
      FLRC_UNROLL
      for (int r = 0; r < kRows; ++r) w[r] = group[r].template vector<i>();
      FLRC_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const FloatVector input = hn::LoadU(kFloats, x + c * ldx + i * kLanes);
        FLRC_UNROLL
        for (int r = 0; r < kRows; ++r) {
          sum[r][c][i % kRowSums] = hn::MulAdd(w[r], input, sum[r][c][i % kRowSums]);
        }
      }
      addVectors<i + 1>(group, x, ldx);
    }
  }

  // The same group of the rows that come next: with several rows at a time the processor's own prefetching
  // would start anew, cold, at the head of each.
  HWY_INLINE void prefetchGroups(const uint8_t* data, int64_t group, int64_t groups) {
    FLRC_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* at = data + (group + r * groups) * kGroupBytes<kType>;
      hwy::Prefetch(at);
      if constexpr (64 < kGroupBytes<kType>) hwy::Prefetch(at + 64);
    }
  }

  // `count` <= kStretch groups of each row, from the group with index firstGroup in the first row on; rows are
  // `groups` apart. x: their inputs.
  HWY_INLINE void addStretch(const RowMatrix& w, int64_t firstGroup, int64_t groups, int64_t count,
                             const float* x, int64_t ldx) {
    Scales<kType> scales[kRows];
    FLRC_UNROLL
    for (int r = 0; r < kRows; ++r) {
      scales[r].expand(w.scale.data(), w.zero.data(), firstGroup + r * groups, count);
    }
    const uint8_t* data = w.data.data();
    for (int64_t g = 0; g < count; ++g) {
      Group<kType> weights[kRows];
      FLRC_UNROLL
      for (int r = 0; r < kRows; ++r) {
        weights[r] = Group<kType>(data, firstGroup + r * groups + g, scales[r], g);
      }
      if constexpr (kRows > 1) prefetchGroups(data, firstGroup + kRows * groups + g, groups);
      addVectors<0>(weights, x + g * kGroup, ldx);
    }
  }
};

template <Dtype kType, int kRows, int kColumns>
HWY_INLINE void rowBlockTimes(const RowsCall& call, int64_t row, int column) {
  const int64_t groups = call.w.stride / kGroup, whole = call.w.cols / kGroup, firstGroup = row * groups;
  RowSums<kType, kRows, kColumns> sums;
  sums.clear();
  const float* x = call.x + column * call.ldx;
  for (int64_t group = 0; group < whole; group += kStretch) {
    const int64_t count = whole - group < kStretch ? whole - group : kStretch;
    sums.addStretch(call.w, firstGroup + group, groups, count, x + group * kGroup, call.ldx);
  }
  if (whole < groups) {
    sums.addStretch(call.w, firstGroup + whole, groups, 1, call.tail + column * kGroup, kGroup);
  }

  FLRC_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FLRC_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      FloatVector total = sums.sum[r][c][0];
      FLRC_UNROLL
      for (int i = 1; i < kRowSums; ++i) total = hn::Add(total, sums.sum[r][c][i]);
      call.y[(column + c) * call.ldy + row + r] = sumOf(total);
    }
  }
}

// kRows rows by all columns.
template <Dtype kType, int kRows>
HWY_INLINE void rowBlockTimesAll(const RowsCall& call, int64_t row, int columns) {
  int column = 0;
  for (; column + kRowColumns <= columns; column += kRowColumns) {
    rowBlockTimes<kType, kRows, kRowColumns>(call, row, column);
  }
  if constexpr (kRowColumns > 2) {
    for (; column + 2 <= columns; column += 2) rowBlockTimes<kType, kRows, 2>(call, row, column);
  }
  for (; column < columns; ++column) rowBlockTimes<kType, kRows, 1>(call, row, column);
}

template <Dtype kType>
void rowsTimesOf(const RowsCall& call, int64_t rowBegin, int64_t rowEnd, int columns) {
  int64_t row = rowBegin;
  // Columns inside, so that weights come from memory once and from L1 for the other columns.
  if constexpr (kRowBlock > 1) {
    if (columns > 1) {
      for (; row + kRowBlock <= rowEnd; row += kRowBlock)
        rowBlockTimesAll<kType, kRowBlock>(call, row, columns);
    }
  }
  for (; row < rowEnd; ++row) rowBlockTimesAll<kType, 1>(call, row, columns);
}

void rowsTimes(const RowMatrix& w, int64_t rowBegin, int64_t rowEnd, const float* x, int64_t ldx, int columns,
               float* y, int64_t ldy) {
  float tail[kMaxColumns * kGroup];
  const int64_t whole = w.cols / kGroup * kGroup;
  if (whole < w.cols) {
    for (int c = 0; c < columns; ++c) {
      for (int64_t i = 0; i < kGroup; ++i)
        tail[c * kGroup + i] = whole + i < w.cols ? x[c * ldx + whole + i] : 0;
    }
  }
  const RowsCall call{w, x, ldx, tail, y, ldy};
  switch (w.dtype) {
    case Dtype::f32:
      return rowsTimesOf<Dtype::f32>(call, rowBegin, rowEnd, columns);
    case Dtype::bf16:
      return rowsTimesOf<Dtype::bf16>(call, rowBegin, rowEnd, columns);
    case Dtype::int8:
      return rowsTimesOf<Dtype::int8>(call, rowBegin, rowEnd, columns);
    case Dtype::int4:
      return rowsTimesOf<Dtype::int4>(call, rowBegin, rowEnd, columns);
  }
}

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
